from collections.abc import Callable
from pathlib import Path

import pytest

from cmp.space.checks import check_against_cluster, check_against_model
from cmp.space.layers import ModelFacts, resolve_layer
from cmp.space.space import Space

Load = Callable[..., Space]
Problems = Callable[..., list[str]]

GPT2 = ModelFacts(n_layers=12, max_positions=1024, vocab_size=50257, width=768)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "n_cmps: 101\n",
            "x.yaml:3  n_cmps: 101 is above cmp_len 100; a memory must not be longer than its context, use at most 100",
        ),
        (
            "n_cmps: {int: [1, 16]}\ncmp_len: {choice: [10, 100]}\n",
            "x.yaml:3  n_cmps: 16 (in {int: [1, 16]}) is above cmp_len 10 (in {choice: [10, 100]}); a memory must not "
            "be longer than its context, use at most 10",
        ),
        (
            "rmb_only: true\nseq_len: 8\nn_cmps: 9\n",
            "x.yaml:5  n_cmps: 9 is above seq_len 8; a memory must not be longer than its context, use at most 8",
        ),
        (
            "keep_len: {choice: [0, 8]}\ncmp_len: 10\nn_cmps: 4\n",
            "x.yaml:5  n_cmps: 4 and keep_len 8 (in {choice: [0, 8]}) are above cmp_len 10; a memory must not be "
            "longer than its context, use at most 10 together",
        ),
        (
            "piece_len: 3\nn_cmps: 4\n",
            "x.yaml:4  n_cmps: 4 is above piece_len 3; a memory must not be longer than its piece, use at most 3",
        ),
        (
            "recursive: true\n",
            "x.yaml:3  recursive: true, but without piece_len there is one piece, which has none before it; "
            "set piece_len",
        ),
        (
            "rmb_only: true\nkeep_len: 2\n",
            "x.yaml:4  keep_len: 2 with rmb_only, which reconstructs all of a text; use 0",
        ),
        (
            "batch_size: 30\nresources: {workers: 4}\n",
            "x.yaml:3  batch_size: 30 cannot be split over 4 workers; use 32",
        ),
        (
            "batch_size: {int: [8, 64]}\nresources: {workers: 3}\n",
            "x.yaml:3  batch_size: 8 (in {int: [8, 64]}) cannot be split over 3 workers; use {choice: [9, 18]}, all "
            "multiples of 3",
        ),
        (
            "search: {grace_period: 11}\n",
            "x.yaml:3  search.grace_period: 11 is above n_epochs 10; use at most 10",
        ),
        (
            "n_epochs: {choice: [2, 8]}\nsearch: {grace_period: 4}\n",
            "x.yaml:4  search.grace_period: 4 is above n_epochs 2 (in {choice: [2, 8]}); use at most 2",
        ),
        (
            "n_grad_loops: 30\nn_train_loops: 4\nn_epochs: 5\n",
            "x.yaml:3  n_grad_loops: 30 is above the 20 loops of a trial, which would never take a step; "
            "use at most 20",
        ),
        (
            "resources: {gpus_per_worker: 1.5}\n",
            "x.yaml:3  resources.gpus_per_worker: 1.5 is more than one GPU but not whole; use 1 or a share",
        ),
        (
            "resources: {workers: 2, gpus_per_worker: 0.5}\n",
            "x.yaml:3  resources.gpus_per_worker: 0.5 with resources.workers: 2 would put two workers on one GPU, "
            "which NCCL refuses; use 1, or one worker",
        ),
        (
            "multi_gpu: true\nresources: {gpus_per_worker: 0.5}\n",
            "x.yaml:4  resources.gpus_per_worker: 0.5 with multi_gpu would put two workers on one GPU, which "
            "NCCL refuses; use 1, or one worker",
        ),
        (
            "quantization: 4bit\nresources: {gpus_per_worker: 0}\n",
            "x.yaml:3  quantization: 4bit needs GPUs, but resources.gpus_per_worker is 0",
        ),
        (
            "multi_gpu: true\nresources: {gpus_per_worker: 0}\n",
            "x.yaml:3  multi_gpu: true needs GPUs, but resources.gpus_per_worker is 0; remove one of the two",
        ),
        (
            "multi_gpu: true\nmodel_parallel: true\n",
            "x.yaml:3  multi_gpu: true together with model_parallel: say how the GPUs are shared, with "
            "resources.gpus_per_worker: N",
        ),
        (
            "context_column: text\n",
            'x.yaml:3  context_column: "text" without answer_column; rows need both',
        ),
        (
            "answer_column: answers.text\n",
            'x.yaml:3  answer_column: "answers.text" without context_column; rows need both',
        ),
        (
            "prompt_column: question\n",
            'x.yaml:3  prompt_column: "question" without context_column and answer_column; name all three',
        ),
        (
            "text_column: a\ncontext_column: b\nanswer_column: c\n",
            'x.yaml:3  text_column: "a" beside context_column; use text_column for texts, the others for rows',
        ),
        (
            "context_column: a\nanswer_column: b\nprompt_column: c\nprompt_template: 'Q:'\n",
            'x.yaml:6  prompt_template: "Q:" has no place for the prompt; write {prompt} into it',
        ),
        (
            "answer_choices: 'yes, yes'\n",
            'x.yaml:3  answer_choices: "yes, yes" is no choice; write different words with commas, such as "no, yes"',
        ),
        (
            "cut: error\ncmp_len: {choice: [50, 100]}\n",
            "x.yaml:3  cut: error, but trials with a smaller cmp_len cut contexts; fix cmp_len, or use start or end",
        ),
        (
            "memory: kv\ncmp_layer: {choice: [half, -1]}\n",
            'x.yaml:4  cmp_layer: is searched but has no effect with memory: "kv"; remove it, or change that',
        ),
        (
            "memory: pooled\nlora_rank: {choice: [0, 8]}\n",
            'x.yaml:4  lora_rank: is searched but has no effect with memory: "pooled"; remove it, or change that',
        ),
        (
            "rmb_only: true\ncmp_len: {choice: [10, 20]}\n",
            "x.yaml:4  cmp_len: is searched but has no effect with rmb_only: true; remove it, or change that",
        ),
        (
            "patience: {int: [1, 5]}\n",
            'x.yaml:3  patience: is searched but has no effect with lr_schedule: "cosine"; remove it, or change that',
        ),
    ],
)
def test_rules_between_settings_have_their_message(problems: Problems, text: str, message: str) -> None:
    assert problems(text) == [message]


def test_a_default_that_breaks_a_rule_is_shown_where_the_other_setting_is(problems: Problems) -> None:
    assert problems("cmp_len: 2\n") == [
        "x.yaml:3  n_cmps: 4 is above cmp_len 2; a memory must not be longer than its context, use at most 2"
    ]


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".", "a\\b"])
def test_a_name_that_would_leave_save_root_is_refused(problems: Problems, name: str) -> None:
    found = problems(f"exp_name: '{name}'\n")

    assert len(found) == 1
    assert "would write outside save_root; use a name without slashes, such as " in found[0]


@pytest.mark.parametrize("name", [".hidden", "-x", "a\tb", "a:b", "*"])
def test_a_name_that_makes_a_poor_folder_is_refused(problems: Problems, name: str) -> None:
    text = f'exp_name: "{name}"\n'.replace("\t", "\\t")

    assert "is not a folder's name; use letters, digits, - and _, such as" in problems(text)[0]


@pytest.mark.parametrize("name", ["gpt2", "größe 3", "a.b-c_d", "2024-01-31", "lr=5e-4"])
def test_a_plain_name_is_fine(load: Load, name: str) -> None:
    assert load(f"exp_name: '{name}'\n").results_place == f"results/{name}"


def test_places_that_cannot_be_written_are_refused(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    found = problems(f"save_root: {tmp_path}/file\ndata_root: {tmp_path}/file/below\n")

    assert found[0] == 'x.yaml:3  save_root: "file" is a file; name a folder that can be written'
    assert found[1].endswith('/below" is not a folder (file is a file); name a folder that can be written') or (
        found[1]
        == 'x.yaml:4  data_root: "file/below" is not a folder (file is a file); name a folder that can be written'
    )


def test_a_revision_is_part_of_the_models_name(load: Load) -> None:
    space = load("revision: v1\n")

    assert space.fixed["model_string"] == "gpt2@v1"
    text = "model_string: gpt2@v1\ndataset: openwebtext\nrevision: v1\n"
    assert load(text, whole=True).fixed == space.fixed, "a written space means the same when it is read again"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt2@v2", 'x.yaml:3  revision: "v1", but model_string says "v2"; keep one of them'),
        ("pydoc", 'x.yaml:3  revision: "v1", but "pydoc" is no model of the hub; remove it'),
    ],
)
def test_a_revision_that_does_not_suit_the_model_is_refused(problems: Problems, model: str, message: str) -> None:
    text = f"model_string: {model}\ndataset: openwebtext\nrevision: v1\n"

    assert problems(text, whole=True) == [message]


@pytest.mark.parametrize("model", ["someone/some-GGUF/model.Q4_1.gguf", "someone/some"])
def test_a_file_in_a_repository_of_the_hub_is_no_local_path(load: Load, model: str) -> None:
    space = load(f"model_string: {model}\ndataset: openwebtext\n", whole=True)

    assert space.fixed["model_string"] == model


@pytest.mark.parametrize(
    "source",
    ["texts/a.txt", "model.gguf", "./a/b/model.gguf", "./models/x", "/nowhere/at/all", "b.parquet", "~/no-such-folder"],
)
def test_a_local_source_that_is_not_there_is_named(problems: Problems, source: str) -> None:
    found = problems(f"model_string: gpt2\ndataset: {source}\n", whole=True)

    assert len(found) == 1
    assert found[0].startswith(f'x.yaml:2  dataset: "{source}": no such file or folder')


@pytest.mark.parametrize("source", ["openwebtext", "user/data", "gpt2", "texts/*.txt", "pydoc"])
def test_names_of_the_hub_and_globs_are_left_to_the_reader(load: Load, source: str) -> None:
    assert load(f"model_string: gpt2\ndataset: '{source}'\n", whole=True).fixed["dataset"] == source


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("patience: 5\n", 'patience: 5 has no effect with lr_schedule: "cosine"'),
        ("rmb_only: true\ncmp_len: 50\n", "cmp_len: 50 has no effect with rmb_only: true"),
        ("proj_cmpr: false\nproj_hid_mult: 2\n", "proj_hid_mult: 2 has no effect with proj_cmpr: false"),
        (
            "n_cmps: {choice: [1, 2]}\nsearch: {num_samples: 9}\n",
            "search.num_samples: 9, but there are only 2 different trials; 2 are run",
        ),
    ],
)
def test_what_is_allowed_but_surprising_is_said(load: Load, text: str, note: str) -> None:
    assert [line.split("  ", 1)[1] for line in load(text).notes] == [note]


def test_a_setting_that_acts_in_some_trials_may_be_searched(load: Load) -> None:
    space = load(
        "memory: {choice: [hidden, kv]}\ncmp_layer: {choice: [half, -1]}\nproj_cmpr: {choice: [true, false]}\n"
    )

    assert len(space.searched) == 3


@pytest.mark.parametrize(
    ("layers", "wrong"),
    [
        ("13", "13"),
        ("-13", "-13"),
        ("{choice: [half, -1, 13]}", "13 (in {choice: "),
        ("{int: [1, 20]}", "13 (in {int: "),
    ],
)
def test_a_layer_outside_the_model_is_named(load: Load, layers: str, wrong: str) -> None:
    found = check_against_model(load(f"cmp_layer: {layers}\n"), GPT2)

    assert len(found) == 1
    assert found[0].line == 3
    assert found[0].message.startswith(wrong)
    assert found[0].message.endswith("""is outside gpt2's 12 layers; use -12..12, "half", or -1 for the last""")


@pytest.mark.parametrize("layers", ["12", "-12", "half", "{int: [1, 12]}", "{choice: [half, -1, 6]}"])
def test_a_layer_inside_the_model_is_fine(load: Load, layers: str) -> None:
    assert check_against_model(load(f"cmp_layer: {layers}\n"), GPT2) == []


def test_context_and_target_must_fit_the_positions(load: Load) -> None:
    assert check_against_model(load("cmp_len: 983\nseq_len: 40\n"), GPT2) == []
    (found,) = check_against_model(load("cmp_len: {choice: [100, 984]}\nseq_len: 40\n"), GPT2)
    assert str(found).endswith(
        "x.yaml:3  cmp_len: 1 BOS + 984 context + 40 target tokens are 1025, above gpt2's 1024 positions; "
        "make it 1 shorter"
    )


def test_long_memories_and_their_separator_count_too(load: Load) -> None:
    text = "cmp_len: 1000\nseq_len: 1\nn_cmps: 23\n"

    assert check_against_model(load(text), GPT2) == []
    (found,) = check_against_model(load(text + "sep_cmpr: true\n"), GPT2)
    assert "1 BOS + 1000 context + 24 compression tokens are 1025" in found.message


def test_a_memory_of_keys_and_values_needs_its_positions_in_the_decoder(load: Load) -> None:
    (found,) = check_against_model(load("cmp_len: 980\nseq_len: 40\nmemory: {choice: [hidden, kv]}\n"), GPT2)

    assert "1 BOS + 980 context + 4 compression + 1 task + 40 target tokens are 1026" in found.message


def test_reconstruction_alone_reads_the_text_twice(load: Load) -> None:
    (found,) = check_against_model(load("rmb_only: true\nseq_len: 600\n"), GPT2)

    assert found.setting == "seq_len"
    assert "1 BOS + 600 context + 600 target tokens are 1201" in found.message


def test_a_model_without_a_limit_takes_any_length(load: Load) -> None:
    bloom = ModelFacts(n_layers=24, max_positions=None, vocab_size=250880, width=1024)

    assert check_against_model(load("cmp_len: 100000\n"), bloom) == []


def test_a_prompt_takes_positions_once_its_length_is_known(load: Load) -> None:
    space = load("cmp_len: 900\nseq_len: 40\n")

    assert check_against_model(space, GPT2, prompt_len=83) == []
    (found,) = check_against_model(space, GPT2, prompt_len=84)

    assert "1 BOS + 900 context + 84 prompt + 40 target tokens are 1025" in str(found)
    assert "make it 1 shorter, or lower prompt_len" in str(found)


@pytest.mark.parametrize(
    ("text", "gpus", "cpus", "message"),
    [
        (
            "multi_gpu: true\n",
            0,
            8,
            "multi_gpu: true, but there is no GPU here; for workers on CPUs use resources.workers: N",
        ),
        (
            "resources: {gpus_per_worker: 4}\n",
            2,
            8,
            "resources.gpus_per_worker: a trial asks for 4 GPUs, but there are 2; use fewer",
        ),
        (
            "resources: {workers: 4, gpus_per_worker: 1}\n",
            1,
            8,
            "resources.gpus_per_worker: a trial asks for 4 GPUs, but there are 1; use fewer",
        ),
        (
            "quantization: 8bit\n",
            0,
            8,
            "quantization: 8bit, but there is no GPU here, and it saves nothing without",
        ),
        (
            "multi_gpu: true\nresources: {workers: 4}\n",
            2,
            8,
            "resources.workers: a trial asks for 4 GPUs, but there are 2; use fewer",
        ),
        (
            "resources: {workers: 4, cpus_per_worker: 3}\n",
            0,
            8,
            "resources.cpus_per_worker: a trial asks for 12 CPUs, but there are 8; use fewer",
        ),
        ("multi_gpu: true\nbatch_size: 32\n", 3, 8, "batch_size: 32 cannot be split over 3 workers; use 33"),
    ],
)
def test_more_than_the_machines_have_is_refused(load: Load, text: str, gpus: int, cpus: int, message: str) -> None:
    assert [str(found).split("  ", 1)[1] for found in check_against_cluster(load(text), gpus, cpus)] == [message]


@pytest.mark.parametrize(
    "text", ["", "multi_gpu: true\n", "resources: {workers: 2}\n", "resources: {gpus_per_worker: 0.5}\n"]
)
def test_what_fits_the_machines_is_fine(load: Load, text: str) -> None:
    assert check_against_cluster(load(text), 2, 4) == []


def test_batches_are_split_over_the_workers_that_the_footprint_has(load: Load) -> None:
    space = load("multi_gpu: true\nbatch_size: 32\n")  # two nodes of 4 and 3 GPUs: a trial takes the larger one

    assert check_against_cluster(space, 7, 16, workers=4) == []
    assert [found.setting for found in check_against_cluster(space, 7, 16)] == ["batch_size"]


@pytest.mark.parametrize(
    ("layer", "n_layers", "blocks"),
    [
        ("half", 12, 6),
        ("half", 5, 2),
        ("half", 1, 1),
        (1, 12, 1),
        (12, 12, 12),
        (-1, 12, 12),
        (-2, 12, 11),
        (-12, 12, 1),
    ],
)
def test_a_layer_means_this_many_blocks(layer: int, n_layers: int, blocks: int) -> None:
    assert resolve_layer(layer, n_layers) == blocks


@pytest.mark.parametrize("layer", [0, 13, -13])
def test_there_is_no_such_layer(layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer {layer} is outside the model's 12 layers"):
        resolve_layer(layer, 12)

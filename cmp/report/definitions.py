"""What each number means, in a reader's words. One place, so that the page and other writers say the same."""

DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "val_loss",
        "Mean cross-entropy, nats per target token, of the frozen backbone given the memory in place of the context; "
        "teacher-forced, on validation documents, which were not trained on. Every trial of a search is scored on the "
        "same target tokens. Perplexity is its exponential.",
    ),
    (
        "positions",
        "What the decoder reads in the context's place: the memory's vectors, and the last tokens of the context where "
        "they stay text (keep_len). The price of a compressor. The compression ratio is cmp_len / positions.",
    ),
    (
        "text control, T(k)",
        "A compressor with nothing to compress: it reads an empty context, and the last k tokens of the real one stay "
        "plain text. It is trained as the trials are, so that it knows the kind of text as well as they do. T(k) is "
        "its loss; T(0) is what adaptation alone reaches.",
    ),
    (
        "worth",
        "How many of the last tokens of the context, kept as plain text, reach the same loss: the k at which T(k) is "
        "the loss of the compressor.",
    ),
    (
        "gain",
        "Worth per position. Above 1 the compressor beats keeping that many of the last tokens; below 1 it does not "
        "earn its keep.",
    ),
    (
        "carried",
        "(T(0) − loss) / (T(0) − T(all)): what of the context's own value gets through, adaptation not counted; 1 is "
        "as good as all of the text.",
    ),
    (
        "memory of another document, swapped",
        "The same loss when each target is read after the memory of another document. What the content of a memory is "
        "worth is the difference; what is left is adaptation.",
    ),
    ("constant memory", "The same after one memory for all, the mean over a batch: no content at all."),
    ("no context", "The backbone as it is, on the same target tokens alone. A memory above it does harm."),
    (
        "full context",
        "The backbone as it is with the uncompressed context, on the same target tokens. With cmp_len searched it "
        "depends on the trial. For reconstruction only (rmb_only) it is the backbone with the text once before itself.",
    ),
    (
        "recovered",
        "(no context − loss) / (no context − full context): 0 when the memory is useless, 1 when it is as good as the "
        "text; not clipped. Adaptation to the kind of text counts in it, so a memory without content recovers much.",
    ),
    (
        "test documents",
        "A tenth of the documents decides nothing: neither what is trained, nor what is stopped, nor which trial is "
        "best. Numbers on them are not flattered by the choice. Intervals of 95 % are drawn over documents "
        "(bootstrap), differences on the same documents.",
    ),
    ("token accuracy", "Share of target tokens that the backbone ranks first, given the memory."),
    (
        "best epoch, best trial",
        "A trial counts by its epoch with the lowest val_loss, and the best trial is the lowest of those. Validation "
        "documents chose them, so that validation numbers flatter the best a little, the more so the more trials there "
        "are.",
    ),
    ("loop", "One micro-batch of batch_size sequences. An epoch is n_train_loops loops, then one validation."),
    (
        "saved by early stopping",
        "Loops that stopped trials were spared, as a share of all loops had they run to their end.",
    ),
    ("time", "Wall time of the search while it ran; time on a slot where it says so. Pauses do not count."),
)

"""The hub's names of data sets that have short ones here. Called by `train.data` and by a compressor's card."""

HUB_NAMES = {"openwebtext": "Skylion007/openwebtext", "glue": "nyu-mll/glue"}


def hub_data_set(dataset: str) -> str:
    """The hub id that a `dataset` of the hub stands for, without revision and without glue's task."""
    name = dataset.partition("@")[0]
    return HUB_NAMES["glue"] if name.startswith("glue/") else HUB_NAMES.get(name, name)


def at_commit(dataset: str, commit: str) -> str:
    """A `dataset` of the hub at one commit, whatever revision it named before."""
    return f"{dataset.partition('@')[0]}@{commit}"

"""Does the space suit its model? Asked before anything is tokenized or loaded, from the model's config alone."""

import logging
from typing import TYPE_CHECKING

from cmp.space.checks import check_against_model
from cmp.space.errors import UserError, require
from cmp.space.layers import ModelFacts
from cmp.space.space import Space

if TYPE_CHECKING:
    from cmp.model.saving import SavedConfig

TASK_TOKENS = ("fwd.weight", "rmb.weight")


def checked_model_facts(space: Space, model_string: str | None = None) -> ModelFacts:
    """Layers, positions and vocabulary of the space's model.

    Args:
        space: what would be searched.
        model_string: its model, at a known commit; None is as the space says.

    Raises:
        UserError: the model is not there, or a layer or length that could be sampled does not suit it.
    """
    facts = facts_of(model_string or space.fixed["model_string"], trust_remote_code=space.fixed["trust_remote_code"])
    require(check_against_model(space, facts))
    return facts


def saved_start(space: Space, facts: ModelFacts, place: str | None = None) -> "SavedConfig | None":
    """The compressor that trials start from, where `warm_start` names one.

    Whether it is of the very same weights shows when these are loaded, at the first trial.

    Args:
        space: what would be searched.
        facts: of its model.
        place: the compressor's, at a known commit; None is as the space says.

    Raises:
        UserError: there is none, or it cannot be of this model or of the trials' kind.
    """
    place = place or space.fixed["warm_start"]
    if place is None:
        return None
    from cmp.model.saving import CompressorError, opened, read_config, read_tensors

    try:
        with opened(place) as folder:
            saved = read_config(folder)
            widths = {tensor.shape[-1] for name, tensor in read_tensors(folder, saved).items() if name in TASK_TOKENS}
    except CompressorError as error:
        raise UserError("warm_start", str(error)) from error
    model = space.fixed["model_string"]
    if widths != {facts.width}:
        width = ", ".join(map(str, widths))
        message = f"{place} is of {saved.backbone.name}, {width} wide; {model} is {facts.width} wide"
        require([space.problem("warm_start", f"{message}; use a compressor of {model}")])
    others = [value for value in space.values("memory") if value != saved.settings.memory]
    if others:
        message = f'{place} has memory: "{saved.settings.memory}", but trials have "{others[0]}"; give them the same'
        require([space.problem("warm_start", message)])
    return saved


def facts_of(model_string: str, setting: str = "model_string", *, trust_remote_code: bool = False) -> ModelFacts:
    """The facts of a model by name.

    Args:
        model_string: hub id, local folder or built-in name.
        setting: where the user wrote it, for the message.
        trust_remote_code: run the code that it brings.

    Raises:
        UserError: there is no such model, the hub cannot be reached, or its config is not one of a language model.
    """
    from cmp.model.loading import model_facts

    # Each of its retries is a warning of two lines; the error that comes in the end says it all.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return model_facts(model_string, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "use a hub id that can be reached, a local folder with its config.json, or pydoc"
        if "trust_remote_code" in str(error):
            reason, hint = "it brings code of its own", "if you trust that code, set trust_remote_code: true"
        raise UserError(setting, f'"{model_string}" cannot be loaded ({reason}); {hint}') from error
    except AttributeError as error:
        raise UserError(setting, f'"{model_string}" is not a causal language model ({error}); use one') from error

"""Does the space suit its model? Asked before anything is tokenized or loaded, from the model's config alone."""

import logging

from cmp.space.checks import check_against_model
from cmp.space.errors import UserError, require
from cmp.space.layers import ModelFacts
from cmp.space.space import Space


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

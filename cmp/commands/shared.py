"""What the commands share.

A mistake of the user is one line on stderr and exit code 2; nobody sees a traceback for it.
"""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cmp.objects import StoreError
from cmp.space.errors import EXIT_INTERRUPTED, EXIT_WRONG_INPUT, UserError

if TYPE_CHECKING:
    from cmp.model.api import Compressor


def run(main: Callable[[], None]) -> int:
    """Call `main` and turn a mistake of the user into a line and an exit code."""
    try:
        main()
    except (UserError, StoreError) as error:
        print(str(error), file=sys.stderr)
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """The folder, and how its backbone is loaded."""
    parser.add_argument("folder", help="a compressor's folder, URL or hub id: a search's best/, for one")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; the GPU when there is one by default")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="precision of the backbone; as in training by default",
    )
    parser.add_argument("--backbone", metavar="MODEL", help="where the model it was trained with is now")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that its backbone brings")


def load_compressor(args: argparse.Namespace) -> "Compressor":
    """The compressor of `add_loading_options`, without progress bars."""
    from transformers.utils import logging

    from cmp.model.api import Compressor

    logging.disable_progress_bar()
    check_device(args.device)
    return Compressor.from_pretrained(
        args.folder,
        device=args.device,
        torch_dtype=args.dtype,
        backbone=args.backbone,
        trust_remote_code=args.trust_remote_code,
    )


def check_device(device: str | None) -> None:
    """Raise where torch does not know the device or this machine has none.

    Raises:
        UserError: says which devices there are.
    """
    import torch

    if device is None:
        return
    found = torch.cuda.device_count()
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise UserError("--device", f"{device!r} is no device; use cpu, cuda or cuda:N") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= found:
        raise UserError("--device", f"{device} is not there; this machine has {found} GPUs")


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    """An argparse type: a number above 0, at most 1."""
    value = positive_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value

"""What each number means, in a reader's words. One place, so that the page and other writers say the same."""

DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "val_loss",
        "Mean cross-entropy, nats per target token, of the frozen backbone given the memory in place of the context; "
        "teacher-forced, on held-out documents. Every trial of a search is scored on the same target tokens. "
        "Perplexity is its exponential.",
    ),
    ("no context", "The backbone alone on the same target tokens. A memory above it does harm."),
    (
        "full context",
        "The backbone with the uncompressed context, on the same target tokens. With cmp_len searched it depends on "
        "the trial. For reconstruction only (rmb_only) it is the backbone with the text once before itself.",
    ),
    (
        "recovered",
        "(no context − val_loss) / (no context − full context): 0 when the memory is useless, 1 when it is as good as "
        "the text; not clipped.",
    ),
    ("compression ratio", "Context tokens per memory vector: cmp_len / n_cmps."),
    ("token accuracy", "Share of target tokens that the backbone ranks first, given the memory."),
    (
        "best epoch, best trial",
        "A trial counts by its epoch with the lowest val_loss, and the best trial is the lowest of those. Choosing on "
        "the same held-out texts that are reported flatters the best a little, the more so the more trials there are.",
    ),
    ("loop", "One micro-batch of batch_size sequences. An epoch is n_train_loops loops, then one validation."),
    (
        "saved by early stopping",
        "Loops that stopped trials were spared, as a share of all loops had they run to their end.",
    ),
    ("time", "Wall time of the search while it ran; time on a slot where it says so. Pauses do not count."),
)

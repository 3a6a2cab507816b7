"""Who is to blame for a failure, how many deaths are too many, and how long a silence: pure rules."""

from cmp.search.engine.faults import (
    DEATHS_WITHIN_AN_EPOCH,
    EARLY_FAILURES_IN_A_ROW,
    Deaths,
    EarlyFailures,
    Failure,
    Silence,
)

NO_MODEL = "OSError: /models/a has no file named config.json (see 17)"


def test_one_failure_on_one_of_several_machines_is_not_yet_the_trials_own() -> None:
    early = EarlyFailures()

    assert not early.is_own(Failure(0, "a", NO_MODEL), elsewhere=True)


def test_the_same_error_on_another_machine_is_the_trials_own_and_acquits_both() -> None:
    early = EarlyFailures()
    early.is_own(Failure(0, "a", NO_MODEL), elsewhere=True)

    assert early.is_own(Failure(0, "b", NO_MODEL.replace("17", "4.5").replace("/models/a", "/else")), elsewhere=True)
    assert early.acquitted(0) == {"a", "b"}


def test_an_error_that_was_met_on_two_machines_blames_no_machine_until_somebody_does_better() -> None:
    early = EarlyFailures()
    early.is_own(Failure(0, "a", NO_MODEL), elsewhere=True)
    early.is_own(Failure(0, "b", NO_MODEL), elsewhere=True)

    assert early.is_own(Failure(1, "a", NO_MODEL), elsewhere=True)
    early.an_epoch_was_done(2)
    assert not early.is_own(Failure(3, "a", NO_MODEL), elsewhere=True)


def test_another_error_on_another_machine_blames_that_machine() -> None:
    early = EarlyFailures()
    early.is_own(Failure(0, "a", NO_MODEL), elsewhere=True)

    assert not early.is_own(Failure(0, "b", "ImportError: no module named torch"), elsewhere=True)


def test_without_another_machine_to_ask_it_is_the_trials_own() -> None:
    assert EarlyFailures().is_own(Failure(0, "a", NO_MODEL), elsewhere=False)


def test_failures_in_a_row_are_too_many_only_without_an_epoch_between_them() -> None:
    early = EarlyFailures()
    for trial in range(EARLY_FAILURES_IN_A_ROW - 1):
        assert not early.count(Failure(trial, "a", NO_MODEL))
    early.an_epoch_was_done(9)
    for trial in range(EARLY_FAILURES_IN_A_ROW - 1):
        assert not early.count(Failure(trial, "a", NO_MODEL))

    assert early.count(Failure(7, "a", NO_MODEL))


def test_more_than_three_deaths_within_an_epoch_are_counted_and_epochs_between_them_start_again() -> None:
    deaths = Deaths()

    assert [deaths.count(0, 2) for _ in range(4)] == [1, 2, 3, 4]
    assert DEATHS_WITHIN_AN_EPOCH == 3
    assert [deaths.count(1, epoch) for epoch in range(20)] == [1] * 20, "a spot machine at every epoch"


def test_a_trial_is_silent_too_long_by_its_own_longest_epoch_and_never_before_ten_minutes() -> None:
    silence = Silence()
    now = 1000.0
    silence.started(0, 0, now)
    silence.reported(0, 1, now + 5)
    silence.reported(0, 2, now + 7)
    end = now + 7 + 590
    for moment in range(int(now), int(end), 30):
        assert silence.too_long(moment) == {}
    assert set(silence.too_long(end + 20)) == {0}

    slow = Silence()
    slow.started(0, 0, 0.0)
    slow.reported(0, 1, 200.0)
    for moment in range(200, 2200, 30):
        assert slow.too_long(moment) == {}, "ten of its epochs are 2000 s"
    assert set(slow.too_long(2215.0)) == {0}


def test_before_the_first_epoch_others_are_the_measure_and_without_any_there_is_none() -> None:
    silence = Silence()
    silence.started(0, 0, 0.0)
    silence.started(1, 0, 0.0)
    for moment in range(0, 90_000, 50):
        assert silence.too_long(moment) == {}
    silence.reported(0, 1, 90_000.0)
    silence.started(2, 0, 90_000.0)

    assert silence.longest_first_epoch == 90_000.0


def test_the_reports_that_a_checkpoint_repeats_are_no_measure_of_time() -> None:
    silence = Silence()
    silence.started(0, 3, 0.0)
    for epoch in (1, 2, 3):
        silence.reported(0, epoch, 0.1 * epoch)

    assert silence.heard[0].longest_epoch is None


def test_a_search_that_was_stopped_itself_does_not_hold_the_time_against_its_trials() -> None:
    """SIGSTOP, or a laptop's lid: the messages of the meantime are still to be read."""
    silence = Silence()
    silence.started(0, 0, 0.0)
    silence.reported(0, 1, 1.0)
    silence.too_long(2.0)

    assert silence.too_long(5000.0) == {}
    assert silence.too_long(5001.0) == {}


def test_a_silence_that_was_ended_is_told_once_and_counted() -> None:
    silence = Silence()
    silence.started(4, 0, 10.0)
    silence.end(4, 700.0)

    assert silence.take_ended(4) == 690.0
    assert silence.take_ended(4) is None
    assert silence.times_ended(4) == 1

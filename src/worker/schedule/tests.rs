use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const REFRESH: Job = Job::Refresh;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Only the refresh job, every minute.
fn schedule() -> Schedule {
    Schedule::new(refresh_every(MINUTE))
}

fn refresh_every(interval: Duration) -> Intervals {
    let mut intervals = Intervals::default();
    intervals[REFRESH.index()] = Some(interval);
    intervals
}

/// Runs what is due at `now` to its end, and gives whose turn it was.
fn tick(schedule: &mut Schedule, outcome: Outcome, now: Instant) -> Option<DatabaseId> {
    let (id, job) = schedule.next(now)?;
    schedule.started(id, job, now);
    schedule.ended(id, job, outcome, false, now);
    Some(id)
}

#[test]
fn a_new_database_is_due_at_once_and_then_every_interval() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[5], start);
    assert_eq!(tick(&mut schedule, Outcome::Done, start), Some(5));
    assert_eq!(tick(&mut schedule, Outcome::Done, start + seconds(59)), None);
    assert_eq!(schedule.next_due(), Some(start + MINUTE));
    assert_eq!(tick(&mut schedule, Outcome::Done, start + MINUTE), Some(5));
}

#[test]
fn who_waited_longest_comes_first() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[9], start);
    schedule.databases_are(&[9, 1], start + seconds(1));
    let now = start + seconds(2);
    assert_eq!(tick(&mut schedule, Outcome::Done, now), Some(9));
    assert_eq!(tick(&mut schedule, Outcome::Done, now), Some(1));
    assert_eq!(tick(&mut schedule, Outcome::Done, now), None);
}

#[test]
fn a_running_job_has_no_second_worker() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[5], start);
    schedule.started(5, REFRESH, start);
    schedule.announced(Some(5), start);
    assert_eq!(schedule.next(start + MINUTE), None);
    // It is not forgotten while it runs, and what was announced meanwhile is looked at right after.
    schedule.databases_are(&[], start);
    schedule.ended(5, REFRESH, Outcome::Absent, false, start + seconds(1));
    assert_eq!(schedule.next(start + seconds(1)), Some((5, REFRESH)));
    schedule.databases_are(&[], start + seconds(2));
    assert_eq!(schedule.next_due(), None);
}

#[test]
fn no_slot_backs_off_up_to_a_minute_and_forgives() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[5], start);
    let mut now = start;
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(schedule.next(now), Some((5, REFRESH)));
        schedule.no_slot(now);
        assert_eq!(schedule.next_due(), Some(now + seconds(wait)));
        now += seconds(wait);
    }
    assert_eq!(tick(&mut schedule, Outcome::Done, now), Some(5));
    schedule.no_slot(now);
    assert_eq!(schedule.next_due(), Some(now + MINUTE));
    assert_eq!(schedule.next(now + MINUTE), Some((5, REFRESH)));
}

#[test]
fn without_the_extension_a_look_a_minute_until_announced() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[5, 6], start);
    assert!(tick(&mut schedule, Outcome::Absent, start).is_some());
    assert!(tick(&mut schedule, Outcome::Absent, start).is_some());
    assert_eq!(schedule.next(start + seconds(59)), None);
    schedule.intervals_are(refresh_every(seconds(1)));
    assert_eq!(schedule.next(start + seconds(59)), None);
    schedule.announced(Some(6), start + seconds(2));
    assert_eq!(schedule.next(start + seconds(2)), Some((6, REFRESH)));
    schedule.announced(None, start + seconds(3));
    assert_eq!(tick(&mut schedule, Outcome::Done, start + seconds(3)), Some(5));
    assert_eq!(tick(&mut schedule, Outcome::Done, start + seconds(3)), Some(6));
}

#[test]
fn a_shorter_interval_counts_at_once_and_off_means_never() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[5], start);
    tick(&mut schedule, Outcome::Done, start);
    schedule.intervals_are(refresh_every(seconds(2)));
    assert_eq!(schedule.next_due(), Some(start + seconds(2)));
    schedule.intervals_are(Intervals::default());
    assert_eq!(schedule.next_due(), None);
    assert_eq!(schedule.next(start + MINUTE), None);
    schedule.intervals_are(refresh_every(seconds(2)));
    assert_eq!(schedule.next_due(), Some(start + seconds(2)));
}

#[test]
fn stepping_aside_costs_a_second_and_dying_a_tick() {
    let start = Instant::now();
    for (outcome, was_terminated, wait) in [
        (Outcome::SteppedAside, false, seconds(1)),
        (Outcome::Died, true, seconds(1)),
        (Outcome::Died, false, MINUTE),
    ] {
        let mut schedule = schedule();
        schedule.databases_are(&[5], start);
        schedule.started(5, REFRESH, start);
        schedule.ended(5, REFRESH, outcome, was_terminated, start);
        assert_eq!(schedule.next_due(), Some(start + wait), "{outcome:?}");
    }
}

#[test]
fn versions_that_differ_are_news_once() {
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.databases_are(&[5], start);
    let mut news = |outcome| {
        schedule.started(5, REFRESH, start);
        schedule.ended(5, REFRESH, outcome, false, start)
    };
    assert!(news(Outcome::VersionDiffers));
    assert!(!news(Outcome::VersionDiffers));
    assert!(!news(Outcome::Done));
    assert!(news(Outcome::VersionDiffers));
}

#[test]
fn workers_that_wait_for_others_leave_a_place() {
    let start = Instant::now();
    let mut intervals = refresh_every(seconds(10));
    intervals[Job::Status.index()] = Some(seconds(10));
    let mut schedule = Schedule::new(intervals);
    schedule.most_waiting_is(1);
    schedule.databases_are(&[5, 6], start);
    for id in [5, 6] {
        schedule.started(id, REFRESH, start);
        schedule.ended(id, REFRESH, Outcome::Done, false, start);
    }
    let now = start + seconds(10);
    let mut started = Vec::new();
    while let Some((id, job)) = schedule.next(now) {
        schedule.started(id, job, now);
        started.push(job);
    }
    assert_eq!(started.iter().filter(|job| **job == Job::Status).count(), 1);
    assert_eq!(started.iter().filter(|job| **job == REFRESH).count(), 2);
    // Nor is anybody due who could not be started.
    assert_eq!(schedule.next_due(), None);
    schedule.ended(5, Job::Status, Outcome::Done, false, now);
    assert_eq!(schedule.next(now), Some((6, Job::Status)));
}

#[test]
fn a_tick_that_overruns_skips_the_next_one() {
    let start = Instant::now();
    let mut schedule = Schedule::new(refresh_every(seconds(2)));
    schedule.databases_are(&[5], start);
    schedule.started(5, REFRESH, start);
    let late = start + seconds(7);
    schedule.ended(5, REFRESH, Outcome::Done, false, late);
    assert_eq!(schedule.next_due(), Some(late + seconds(1)));
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn verifying_every(interval: Duration) -> Schedule {
    let mut intervals = refresh_every(MINUTE);
    intervals[Job::Verify.index()] = Some(interval);
    Schedule::new(intervals)
}

/// Lets everything that is due until `until` run, a moment each, and gives when what has time had a turn.
fn verified(schedule: &mut Schedule, start: Instant, until: Instant, outcome: Outcome) -> Vec<Duration> {
    let mut turns = Vec::new();
    while let Some(now) = schedule.next_due().map(|due| due.max(start)).filter(|due| *due <= until) {
        let Some((id, job)) = schedule.next(now) else { break };
        let outcome = if job == Job::Verify { outcome } else { Outcome::Done };
        if job == Job::Verify {
            turns.push(now - start);
        }
        schedule.started(id, job, now);
        schedule.ended(id, job, outcome, true, now);
    }
    turns
}

#[test]
fn verifying_waits_for_a_quiet_moment_and_then_comes_every_interval() {
    let start = Instant::now();
    let mut schedule = verifying_every(DAY);
    schedule.databases_are(&[5], start);
    let first = seconds(600);
    assert_eq!(verified(&mut schedule, start, start + DAY + first, Outcome::Done), [first, first + DAY]);

    let mut schedule = verifying_every(seconds(2));
    schedule.databases_are(&[5], start);
    assert_eq!(verified(&mut schedule, start, start + seconds(4), Outcome::Done), [seconds(2), seconds(4)]);
}

#[test]
fn news_of_a_database_does_not_have_it_verified() {
    let start = Instant::now();
    let mut schedule = verifying_every(DAY);
    schedule.databases_are(&[5], start);
    let first = start + seconds(600);
    assert_eq!(verified(&mut schedule, start, first, Outcome::Done).len(), 1);
    schedule.announced(Some(5), first);
    schedule.announced(None, first);
    assert!(verified(&mut schedule, first, first + seconds(3600), Outcome::Done).is_empty());
}

#[test]
fn verifying_that_was_ended_is_tried_again_an_hour_later() {
    let start = Instant::now();
    for outcome in [Outcome::Died, Outcome::SteppedAside] {
        let mut schedule = verifying_every(DAY);
        schedule.databases_are(&[5], start);
        let turns = verified(&mut schedule, start, start + seconds(600 + 2 * 3600), outcome);
        assert_eq!(turns, [seconds(600), seconds(600 + 3600), seconds(600 + 7200)], "{outcome:?}");
    }
}

#[test]
fn one_database_after_the_other_is_verified() {
    let start = Instant::now();
    let mut schedule = verifying_every(DAY);
    schedule.databases_are(&[5, 6, 7], start);
    for id in [5, 6, 7] {
        schedule.started(id, REFRESH, start);
        schedule.ended(id, REFRESH, Outcome::Done, false, start);
    }
    let now = start + seconds(900);
    let mut turns = Vec::new();
    while let Some((id, job)) = schedule.next(now) {
        schedule.started(id, job, now);
        turns.push((id, job));
    }
    turns.sort_by_key(|(id, job)| (job.index(), *id));
    assert_eq!(turns, [(5, REFRESH), (6, REFRESH), (7, REFRESH), (5, Job::Verify)]);
    schedule.ended(5, Job::Verify, Outcome::Done, false, now);
    assert_eq!(schedule.next(now), Some((6, Job::Verify)));
}

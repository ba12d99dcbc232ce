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
    schedule.ended(id, job, outcome, None, now);
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
    schedule.ended(5, REFRESH, Outcome::Absent, None, start + seconds(1));
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
    for (outcome, cause, wait) in [
        (Outcome::SteppedAside, None, seconds(1)),
        (Outcome::Died, Some(Cause::InTheWay), seconds(1)),
        (Outcome::Died, None, MINUTE),
    ] {
        let mut schedule = schedule();
        schedule.databases_are(&[5], start);
        schedule.started(5, REFRESH, start);
        schedule.ended(5, REFRESH, outcome, cause, start);
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
        schedule.ended(5, REFRESH, outcome, None, start)
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
        schedule.ended(id, REFRESH, Outcome::Done, None, start);
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
    schedule.ended(5, Job::Status, Outcome::Done, None, now);
    assert_eq!(schedule.next(now), Some((6, Job::Status)));
}

#[test]
fn a_tick_that_overruns_skips_the_next_one() {
    let start = Instant::now();
    let mut schedule = Schedule::new(refresh_every(seconds(2)));
    schedule.databases_are(&[5], start);
    schedule.started(5, REFRESH, start);
    let late = start + seconds(7);
    schedule.ended(5, REFRESH, Outcome::Done, None, late);
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
        schedule.ended(id, job, outcome, Some(Cause::InTheWay), now);
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
        schedule.ended(id, REFRESH, Outcome::Done, None, start);
    }
    let now = start + seconds(900);
    let mut turns = Vec::new();
    while let Some((id, job)) = schedule.next(now) {
        schedule.started(id, job, now);
        turns.push((id, job));
    }
    turns.sort_by_key(|(id, job)| (job.index(), *id));
    assert_eq!(turns, [(5, REFRESH), (6, REFRESH), (7, REFRESH), (5, Job::Verify)]);
    schedule.ended(5, Job::Verify, Outcome::Done, None, now);
    assert_eq!(schedule.next(now), Some((6, Job::Verify)));
}

/// Two slots, and these databases, found at `start` and known to have the extension.
fn crowded(slots: usize, databases: &[DatabaseId], start: Instant) -> Schedule {
    let mut schedule = schedule();
    schedule.slots_are(slots);
    schedule.databases_are(databases, start);
    for id in databases {
        schedule.started(*id, REFRESH, start);
        schedule.ended(*id, REFRESH, Outcome::Done, None, start);
    }
    schedule
}

/// A job that was ended for its time `times` times, and is due again.
fn slow(schedule: &mut Schedule, id: DatabaseId, times: usize, start: Instant) -> Instant {
    let mut now = start;
    for _ in 0..times {
        schedule.started(id, REFRESH, now);
        now += seconds(100);
        schedule.ended(id, REFRESH, Outcome::OutOfTime, None, now);
        now = schedule.databases[&id].turns[REFRESH.index()].due;
    }
    now
}

#[test]
fn whose_time_was_over_rests_for_as_long_and_then_longer_each_time() {
    let start = Instant::now();
    let mut schedule = crowded(2, &[5], start);
    let mut now = start;
    for rest in [100, 200, 400, 800, 1600, 3200, 3200] {
        schedule.started(5, REFRESH, now);
        now += seconds(100);
        schedule.ended(5, REFRESH, Outcome::OutOfTime, None, now);
        assert_eq!(schedule.next_due(), Some(now + seconds(rest)));
        now += seconds(rest);
    }
    assert_eq!(schedule.brief(5, REFRESH).ended, MOST_OFTEN);
    // A quick one makes good for all.
    schedule.started(5, REFRESH, now);
    schedule.ended(5, REFRESH, Outcome::Done, None, now + seconds(1));
    assert_eq!(schedule.brief(5, REFRESH), Brief::default());
    assert_eq!(schedule.next_due(), Some(now + MINUTE));
}

#[test]
fn the_database_with_the_fewest_slots_comes_first() {
    let start = Instant::now();
    let mut intervals = refresh_every(MINUTE);
    intervals[Job::Seal.index()] = Some(seconds(5));
    let mut schedule = Schedule::new(intervals);
    schedule.slots_are(3);
    schedule.databases_are(&[5], start);
    schedule.started(5, REFRESH, start);
    schedule.ended(5, REFRESH, Outcome::Done, None, start);
    schedule.databases_are(&[5, 6], start + seconds(1));
    schedule.started(5, Job::Seal, start + seconds(1));
    // 5 has waited longer, and holds a slot.
    let now = start + MINUTE;
    assert_eq!(schedule.next(now), Some((6, REFRESH)));
    schedule.started(6, REFRESH, now);
    assert_eq!(schedule.next(now), Some((5, REFRESH)));
    schedule.started(5, REFRESH, now);
    assert_eq!(schedule.next(now), None, "all slots are taken");
}

#[test]
fn one_who_has_had_his_time_makes_room() {
    let start = Instant::now();
    let mut schedule = crowded(2, &[5, 6, 7], start);
    let now = start + MINUTE;
    schedule.started(5, REFRESH, now);
    schedule.started(6, REFRESH, now + seconds(1));
    assert_eq!(schedule.overstayer(now + seconds(10)), None);
    assert_eq!(schedule.late(now + seconds(10)), [(7, start + MINUTE)]);
    // 7 waits, and 5 has run for longest.
    let later = now + seconds(11);
    assert_eq!(schedule.overstayer(later), Some((5, REFRESH)));
    schedule.ended(5, REFRESH, Outcome::Died, Some(Cause::OthersTurn), later);
    assert_eq!(schedule.brief(5, REFRESH), Brief { ended: 1, tell: None });
    assert_eq!(schedule.next(later), Some((7, REFRESH)));
    schedule.started(7, REFRESH, later);
    assert_eq!(schedule.late(later), []);
    // Nobody else waits: 5 rests.
    assert_eq!(schedule.overstayer(later + seconds(30)), None);
}

#[test]
fn slow_jobs_leave_a_slot_to_the_others() {
    let start = Instant::now();
    let mut schedule = crowded(2, &[5, 6, 7], start);
    let now = slow(&mut schedule, 5, 1, start).max(slow(&mut schedule, 6, 1, start)) + seconds(3600);
    schedule.started(5, REFRESH, now);
    assert_eq!(schedule.next(now), Some((7, REFRESH)), "6 has waited as long, and is slow");
    schedule.started(7, REFRESH, now);
    schedule.ended(7, REFRESH, Outcome::Done, None, now + seconds(1));
    assert_eq!(schedule.next(now + seconds(1)), None);
    assert_eq!(schedule.next_due(), Some(now + MINUTE), "nor is the launcher woken for 6");
    // They take turns, longer ones each time.
    assert_eq!(schedule.overstayer(now + seconds(39)), None);
    assert_eq!(schedule.overstayer(now + seconds(41)), Some((5, REFRESH)));
    schedule.ended(5, REFRESH, Outcome::Died, Some(Cause::OthersTurn), now + seconds(41));
    assert_eq!(schedule.brief(5, REFRESH), Brief { ended: 2, tell: Some(Cause::OthersTurn) });
}

#[test]
fn what_was_ended_is_told_before_it_goes_on() {
    let start = Instant::now();
    let mut schedule = crowded(2, &[5, 6], start);
    schedule.started(5, REFRESH, start);
    let now = start + seconds(700);
    schedule.ended(5, REFRESH, Outcome::Died, Some(Cause::OutOfTime), now);
    let brief = Brief { ended: 1, tell: Some(Cause::OutOfTime) };
    assert_eq!(schedule.brief(5, REFRESH), brief);
    // The telling needs no slow slot, and is not lost where our tables are locked.
    schedule.started(6, REFRESH, now);
    for (outcome, left) in [(Outcome::SteppedAside, brief), (Outcome::Done, Brief { tell: None, ..brief })] {
        let due = now + if outcome == Outcome::Done { seconds(1) } else { Duration::ZERO };
        assert_eq!(schedule.next(due), Some((5, REFRESH)));
        schedule.started(5, REFRESH, due);
        schedule.ended(5, REFRESH, outcome, None, due);
        assert_eq!(schedule.brief(5, REFRESH), left);
    }
    assert_eq!(schedule.databases[&5].turns[REFRESH.index()].due, now + seconds(700));
}

#[test]
fn a_worker_that_does_not_end_takes_no_slot_and_its_database_none_more() {
    let start = Instant::now();
    let mut schedule = crowded(1, &[5, 6], start);
    let mut intervals = refresh_every(MINUTE);
    intervals[Job::Seal.index()] = Some(seconds(5));
    schedule.intervals_are(intervals);
    let now = start + MINUTE;
    schedule.started(5, REFRESH, now);
    assert_eq!(schedule.next(now), None);
    schedule.does_not_end(5, REFRESH);
    while let Some((id, job)) = schedule.next(now) {
        assert_eq!(id, 6);
        schedule.started(id, job, now);
        schedule.ended(id, job, Outcome::Done, None, now);
    }
    schedule.ended(5, REFRESH, Outcome::Died, Some(Cause::OutOfTime), now);
    assert_eq!(schedule.next(now).map(|next| next.0), Some(5));
}

/// How a database's refresh behaves.
#[derive(Clone, Copy, Debug)]
enum Fleet {
    Quick,
    /// Takes so many seconds.
    Slow(u64),
    Endless,
}

impl Fleet {
    fn takes(self) -> u64 {
        match self {
            Fleet::Quick => 1,
            Fleet::Slow(seconds) => seconds,
            Fleet::Endless => u64::MAX,
        }
    }
}

/// Runs a cluster for so many seconds, as the launcher does, and gives for each database when refreshes were done.
fn simulate(fleets: &[Fleet], slots: usize, length: u64) -> Vec<Vec<u64>> {
    const LIMIT: u64 = 600;
    let start = Instant::now();
    let mut schedule = schedule();
    schedule.slots_are(slots);
    let all: Vec<DatabaseId> = (0..fleets.len() as u32).collect();
    schedule.databases_are(&all, start);
    let mut done = vec![Vec::new(); fleets.len()];
    let mut running: Vec<(DatabaseId, u64)> = Vec::new();
    for second in 0..length {
        let now = start + seconds(second);
        running.retain(|(id, since)| {
            let takes = match schedule.brief(*id, REFRESH).tell {
                Some(_) => 1,
                None => fleets[*id as usize].takes(),
            };
            let outcome = match second - since {
                ran if ran >= takes => Outcome::Done,
                LIMIT.. => Outcome::OutOfTime,
                _ => return true,
            };
            if outcome == Outcome::Done && schedule.brief(*id, REFRESH).tell.is_none() {
                done[*id as usize].push(second);
            }
            schedule.ended(*id, REFRESH, outcome, None, now);
            false
        });
        if let Some((id, job)) = schedule.overstayer(now) {
            schedule.ended(id, job, Outcome::Died, Some(Cause::OthersTurn), now);
            running.retain(|(other, _)| *other != id);
        }
        while let Some((id, job)) = schedule.next(now) {
            let fewest = schedule.startable().filter(|(due, ..)| *due <= now);
            assert!(fewest.map(|(_, other, _)| schedule.held(other)).min() >= Some(schedule.held(id)));
            schedule.started(id, job, now);
            running.push((id, second));
            assert!(running.len() <= slots);
        }
    }
    done
}

fn longest_gap(moments: &[u64], until: u64) -> u64 {
    let moments = moments.iter().copied().chain([until]);
    moments.fold((0, 0), |(last, longest), moment| (moment, longest.max(moment - last))).1
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(16))]

    /// Whatever the others do, a database whose refresh is quick has its turn soon, and one whose refresh is slow has it in
    /// the end.
    #[test]
    fn everybody_has_a_turn(
        quick in 1..5usize,
        slow in proptest::collection::vec(15..200u64, 0..3),
        endless in 0..4usize,
        slots in 2..5usize,
        seed in 0..1000usize,
    ) {
        let mut fleets = vec![Fleet::Quick; quick];
        fleets.extend(slow.iter().map(|seconds| Fleet::Slow(*seconds)));
        fleets.extend(vec![Fleet::Endless; endless]);
        let turn = seed % fleets.len();
        fleets.rotate_left(turn);
        const LENGTH: u64 = 2 * 3600;
        let done = simulate(&fleets, slots, LENGTH);
        // Each that is slow is found to be so once, in the slot of the quick ones.
        let learning = 20 * (slow.len() + endless) as u64;
        for (fleet, moments) in fleets.iter().zip(&done) {
            match fleet {
                Fleet::Quick => {
                    proptest::prop_assert!(longest_gap(moments, LENGTH) <= 80 + learning, "{moments:?}");
                    proptest::prop_assert!(moments.len() as u64 >= LENGTH / 70, "{moments:?}");
                }
                Fleet::Slow(_) => proptest::prop_assert!(moments.len() > 2, "{moments:?}"),
                Fleet::Endless => proptest::prop_assert!(moments.is_empty()),
            }
        }
    }

    /// The same with a single slot: nobody waits for longer than a turn of each of the others.
    #[test]
    fn everybody_has_a_turn_in_a_single_slot(quick in 1..5usize, endless in 0..4usize) {
        let mut fleets = vec![Fleet::Endless; endless];
        fleets.extend(vec![Fleet::Quick; quick]);
        for moments in &simulate(&fleets, 1, 2 * 3600)[endless..] {
            proptest::prop_assert!(moments.len() > 10, "{moments:?}");
        }
    }
}

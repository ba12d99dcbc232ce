//! All components at once, each in a thread of its own, while the caller does something else.

use super::component::Component;
use super::snapshot::{ComponentStatus, Probe};
use super::{probe, units};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How much longer than the longest timeout a check waits: a name look-up, for one, cannot be ended from outside.
const GRACE: Duration = Duration::from_millis(200);

/// How long the caller may sleep between two looks, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Enough for a TLS handshake; the default would be four times that for each component.
const STACK_BYTES: usize = 512 * 1024;

enum Answer {
    Probe(usize, probe::Outcome),
    Unit(usize, units::Outcome),
}

/// A check under way.
pub struct Check {
    components: Arc<Vec<Component>>,
    answers: Receiver<Answer>,
    probes: Vec<Option<probe::Outcome>>,
    units: Vec<Option<units::Outcome>>,
    missing: usize,
    deadline: Instant,
    pause: Duration,
}

/// What came out of a check of one component.
pub struct Checked {
    /// What is shown.
    pub status: ComponentStatus,
    /// Whether the whole is down when it is unhealthy.
    pub critical: bool,
    /// What an operator should know, if anything.
    pub reason: Option<String>,
}

impl Check {
    /// Starts asking. Nothing waits for the threads: one that hangs is left behind, and ends with the process or by
    /// itself.
    pub fn start(components: Vec<Component>) -> Self {
        let components = Arc::new(components);
        let (sender, answers) = channel();
        let named: Vec<(usize, String)> = components
            .iter()
            .enumerate()
            .filter_map(|(index, component)| Some((index, component.unit_name()?)))
            .collect();
        let with_url = components.iter().filter(|component| component.url.is_some());
        let longest = with_url.clone().map(Component::timeout).max().unwrap_or_default();
        let bus = if named.is_empty() { Duration::ZERO } else { units::TIMEOUT };
        let check = Self {
            missing: with_url.count() + named.len(),
            probes: components.iter().map(|_| None).collect(),
            units: components.iter().map(|_| None).collect(),
            deadline: Instant::now() + longest.max(bus) + GRACE,
            pause: FIRST_PAUSE,
            components: Arc::clone(&components),
            answers,
        };
        without_signals(|| start_threads(&components, named, &sender));
        check
    }

    /// How long to sleep before asking again; `None` when every answer is there, or none will come any more.
    pub fn pause(&mut self) -> Option<Duration> {
        let over = self.take_answers();
        let left = self.deadline.saturating_duration_since(Instant::now());
        if over || left.is_zero() {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Some(pause.min(left))
    }

    fn take_answers(&mut self) -> bool {
        while self.missing > 0 {
            match self.answers.try_recv() {
                Ok(Answer::Probe(index, outcome)) => self.probes[index] = Some(outcome),
                Ok(Answer::Unit(index, outcome)) => self.units[index] = Some(outcome),
                Err(TryRecvError::Empty) => return false,
                // Every thread has ended, and one of them without an answer.
                Err(TryRecvError::Disconnected) => return true,
            }
            self.missing -= 1;
        }
        true
    }

    /// What is known by now.
    pub fn finish(mut self) -> Vec<Checked> {
        self.take_answers();
        let answers = self.probes.into_iter().zip(self.units);
        self.components
            .iter()
            .zip(answers)
            .map(|(component, (probe, unit))| sum_up(component, probe, unit))
            .collect()
    }
}

/// Threads inherit the mask of the one that starts them: in these no signal handler of the process ever runs.
fn without_signals(start: impl FnOnce()) {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    start();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
}

fn start_threads(components: &Arc<Vec<Component>>, named: Vec<(usize, String)>, sender: &Sender<Answer>) {
    let roots = probe::Roots::default();
    for (index, component) in components.iter().enumerate() {
        if component.url.is_none() {
            continue;
        }
        let (components, roots, answers) = (Arc::clone(components), roots.clone(), sender.clone());
        spawn(
            move || {
                let component = &components[index];
                let url = component.url.as_deref().unwrap_or_default();
                let _ = answers.send(Answer::Probe(index, probe::probe(component, url, &roots)));
            },
            |reason| {
                let _ = sender.send(Answer::Probe(index, (Probe::NONE, Some(reason))));
            },
        );
    }
    if named.is_empty() {
        return;
    }
    let (places, names): (Vec<usize>, Vec<String>) = named.into_iter().unzip();
    let all = places.clone();
    let answers = sender.clone();
    spawn(
        move || {
            units::ask(&names, |place, outcome| {
                let _ = answers.send(Answer::Unit(places[place], outcome));
            });
        },
        |reason| {
            for index in all {
                let _ = sender.send(Answer::Unit(index, Err(reason.clone())));
            }
        },
    );
}

fn spawn(work: impl FnOnce() + Send + 'static, failed: impl FnOnce(String)) {
    if let Err(error) =
        thread::Builder::new().name("busymate probe".into()).stack_size(STACK_BYTES).spawn(work)
    {
        failed(format!("no thread could be started: {error}"));
    }
}

fn sum_up(component: &Component, probe: Option<probe::Outcome>, unit: Option<units::Outcome>) -> Checked {
    let mut reasons = Vec::new();
    let probe = component.url.is_some().then(|| {
        let (probe, reason) =
            probe.unwrap_or_else(|| (Probe::NONE, Some(probe::timed_out(component.timeout()))));
        reasons.extend(reason);
        probe
    });
    let unit_state = component.unit.as_ref().and_then(|_| {
        let (state, reason) = match unit.unwrap_or_else(|| Err(units::timed_out())) {
            Ok((state, reason)) => (Some(state), reason),
            // Where nobody can be asked, a component with a URL is judged by that alone.
            Err(reason) => (probe.is_none().then(|| "unknown".to_owned()), Some(reason)),
        };
        reasons.extend(reason);
        state
    });
    Checked {
        status: ComponentStatus {
            key: component.key.clone(),
            label: component.label.clone(),
            probe,
            unit_state,
        },
        critical: component.critical,
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(url: bool, unit: bool) -> Component {
        Component {
            url: url.then(|| "http://localhost/".into()),
            unit: unit.then(|| "a.service".into()),
            timeout_us: 1_000_000,
            ..Component::default()
        }
    }

    const UP: Probe = Probe { up: true, http_status: Some(200), latency_ms: Some(1) };

    #[test]
    fn nothing_to_ask_ends_at_once() {
        let mut check = Check::start(Vec::new());
        assert_eq!(check.pause(), None);
        assert!(check.finish().is_empty());
    }

    #[test]
    fn a_silent_bus_is_unknown_only_where_nothing_else_tells() {
        let silent = || Some(Err("no bus".to_owned()));
        let both = sum_up(&component(true, true), Some((UP, None)), silent());
        assert_eq!((both.status.unit_state, both.reason.as_deref()), (None, Some("no bus")));
        let unit_alone = sum_up(&component(false, true), None, silent());
        assert_eq!(unit_alone.status.unit_state.as_deref(), Some("unknown"));
        assert_eq!(unit_alone.status.probe, None);
    }

    #[test]
    fn who_gave_no_answer_is_down_and_says_so() {
        let checked = sum_up(&component(true, false), None, None);
        assert_eq!(checked.status.probe, Some(Probe::NONE));
        assert_eq!(checked.reason.as_deref(), Some("no answer within 1s"));
        assert_eq!(checked.status.unit_state, None);
    }

    #[test]
    fn both_reasons_are_told() {
        let probe = Some((Probe::NONE, Some("refused".to_owned())));
        let unit = Some(Ok(("failed".to_owned(), Some("unit a.service is failed".to_owned()))));
        let checked = sum_up(&component(true, true), probe, unit);
        assert_eq!(checked.reason.as_deref(), Some("refused; unit a.service is failed"));
    }

    #[test]
    fn helper_threads_take_no_signal() {
        let mut blocked = None;
        without_signals(|| {
            blocked = thread::spawn(|| SigSet::thread_get_mask().unwrap()).join().ok();
        });
        let blocked = blocked.unwrap();
        for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGUSR1, nix::sys::signal::SIGURG] {
            assert!(blocked.contains(signal));
            assert!(!SigSet::thread_get_mask().unwrap().contains(signal));
        }
    }
}

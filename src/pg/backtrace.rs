//! Keeps Rust backtraces out of what clients are sent. With `RUST_BACKTRACE` in the server's environment, pgrx would put
//! one into the DETAIL of every error that passes through the library, no matter which code raised it.

use std::backtrace::Backtrace;
use std::env;

/// What Rust asks first whether a [`Backtrace`] is to be taken.
const VARIABLE: &str = "RUST_LIB_BACKTRACE";

/// From here on no error has a backtrace; where they are asked for, those of the library's own mistakes go to the server's
/// log. Called while the library is loaded, after pgrx has set its panic hook.
pub fn keep_out_of_errors() {
    let kept = env::var_os(VARIABLE);
    let asked = kept.clone().or_else(|| env::var_os("RUST_BACKTRACE"));
    // Rust decides once in a process, for this library alone: it has its own copy of the standard library.
    set(Some("0".as_ref()));
    let _ = Backtrace::capture();
    set(kept.as_deref());
    if asked.is_some_and(|value| value != "0") {
        log_mistakes();
    }
}

fn set(value: Option<&std::ffi::OsStr>) {
    // SAFETY: PostgreSQL loads libraries on a process's one thread, and the library starts none before this.
    unsafe {
        match value {
            Some(value) => env::set_var(VARIABLE, value),
            None => env::remove_var(VARIABLE),
        }
    }
}

/// A message alone is what `panic!` raises; errors for the user and PostgreSQL's are passed up as other types.
fn log_mistakes() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let own_thread = std::thread::current().name().is_none_or(|name| name == "main");
        if own_thread && (panic.payload().is::<&str>() || panic.payload().is::<String>()) {
            eprintln!("busymate_stats {panic}\n{}", Backtrace::force_capture());
        }
    }));
}

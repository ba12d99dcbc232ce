//! A question of two texts that policies ask for every row of a table: the answer is remembered for as long as nothing
//! that it depends on has changed, and given again without an allocation, a look-up or a panic guard.
//!
//! Besides its arguments an answer depends on the caller: the outer role, the session's role, and the text of one
//! setting; and on what [`DEPENDENCIES`] watches.

use super::invalidation::Watch;
use super::setting_place;
use pgrx::pg_sys;
use pgrx::pg_sys::{Datum, FunctionCallInfo, Oid};
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString};

/// Room for both texts of a question; a longer one is asked anew each time.
const QUESTION_BYTES: usize = 62;

/// Answers remembered of one caller: a query asks a few different questions at most.
const ANSWERS: usize = 8;

/// A setting longer than this is not remembered.
const SETTING_BYTES: usize = 64 * 1024;

/// What answers depend on, besides who asks: relations that are read for them, the roles of the cluster, and settings,
/// whose assignment expires it.
pub static DEPENDENCIES: Watch = Watch::new();

/// Who asks: everything that an answer depends on, besides the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// [`DEPENDENCIES`]' generation, taken before anything was looked up.
    pub generation: u64,
    /// The outer role.
    pub role: Oid,
    /// The session's role.
    pub session: Oid,
    /// The setting's text.
    pub setting: Vec<u8>,
}

/// PostgreSQL's functions without pgrx's guard, which would cost more than they do.
mod raw {
    use pgrx::pg_sys::Oid;
    use std::ffi::{c_char, c_int};

    unsafe extern "C-unwind" {
        pub fn AcceptInvalidationMessages();
        pub fn GetOuterUserId() -> Oid;
        pub fn GetSessionUserId() -> Oid;
        pub fn InSecurityRestrictedOperation() -> bool;
        pub fn strcmp(one: *const c_char, other: *const c_char) -> c_int;
    }
}

#[derive(Clone, Copy)]
struct Answered {
    first: u8,
    second: u8,
    answer: bool,
    texts: [u8; QUESTION_BYTES],
}

impl Answered {
    const NONE: Self = Self { first: u8::MAX, second: u8::MAX, answer: false, texts: [0; QUESTION_BYTES] };

    fn new(first: &[u8], second: &[u8], answer: bool) -> Option<Self> {
        let mut texts = [0; QUESTION_BYTES];
        texts.get_mut(..first.len())?.copy_from_slice(first);
        texts.get_mut(first.len()..first.len() + second.len())?.copy_from_slice(second);
        Some(Self { first: first.len() as u8, second: second.len() as u8, answer, texts })
    }

    fn answers(&self, first: &[u8], second: &[u8]) -> bool {
        let (one, other) = (usize::from(self.first), usize::from(self.second));
        one == first.len()
            && other == second.len()
            && self.texts.get(..one) == Some(first)
            && self.texts.get(one..one + other) == Some(second)
    }
}

/// What is remembered of the last caller, and where to ask when it does not answer.
struct Memory {
    /// The setting's name, and the function that is asked what is not remembered.
    asked: Option<(&'static CStr, Ask)>,
    /// Nothing is remembered of generation 0.
    generation: u64,
    role: Oid,
    session: Oid,
    setting: Option<CString>,
    place: setting_place::Place,
    answers: [Answered; ANSWERS],
    next: usize,
}

/// A SQL function as pgrx wraps it.
pub type Ask = unsafe extern "C-unwind" fn(FunctionCallInfo) -> Datum;

/// State of a backend, which has one thread that PostgreSQL's functions are called in.
struct OfTheBackend(UnsafeCell<Memory>);

// SAFETY: SQL functions and `_PG_init` run in the backend's main thread; no other thread of ours comes here.
unsafe impl Sync for OfTheBackend {}

static MEMORY: OfTheBackend = OfTheBackend(UnsafeCell::new(Memory {
    asked: None,
    generation: 0,
    role: pg_sys::InvalidOid,
    session: pg_sys::InvalidOid,
    setting: None,
    place: setting_place::Place::NOWHERE,
    answers: [Answered::NONE; ANSWERS],
    next: 0,
}));

/// Names the setting that says who asks, and the function that [`remembered_answer`] stands before.
pub fn register(setting: &'static CStr, ask: Ask) {
    // SAFETY: nobody else holds a reference: those below end before anything is called.
    unsafe { (*MEMORY.0.get()).asked = Some((setting, ask)) };
}

/// Remembers what `caller` is answered.
pub fn remember(caller: &Caller, first: &[u8], second: &[u8], answer: bool) {
    let Some(answered) = Answered::new(first, second, answer) else { return };
    // SAFETY: as in `register`; the setting's search calls nothing that comes back here.
    let memory = unsafe { &mut *MEMORY.0.get() };
    let Some((name, _)) = memory.asked else { return };
    // A library that was loaded since may have moved it.
    // SAFETY: the value is not used.
    if unsafe { memory.place.value(name) }.is_none() {
        memory.place = setting_place::find(name);
    }
    let is_remembered = memory.generation == caller.generation
        && memory.role == caller.role
        && memory.session == caller.session
        && memory.setting.as_ref().is_some_and(|setting| setting.to_bytes() == caller.setting);
    if !is_remembered {
        memory.generation = 0;
        if caller.setting.len() > SETTING_BYTES {
            return;
        }
        let Ok(setting) = CString::new(caller.setting.as_slice()) else { return };
        (memory.role, memory.session, memory.setting) = (caller.role, caller.session, Some(setting));
        (memory.answers, memory.next) = ([Answered::NONE; ANSWERS], 0);
        memory.generation = caller.generation;
    }
    memory.answers[memory.next] = answered;
    memory.next = (memory.next + 1) % ANSWERS;
}

impl Memory {
    /// Whether who asks now is the caller remembered, and nothing has changed since.
    ///
    /// # Safety
    /// To be called in a transaction.
    unsafe fn holds(&self) -> bool {
        let (Some((name, _)), Some(setting)) = (self.asked, &self.setting) else { return false };
        // SAFETY: the first three read backend-local variables. A setting's value stays until it is set, and nothing
        // is called here that sets one; both texts end with NUL.
        unsafe {
            self.generation == DEPENDENCIES.moved_to()
                && self.role == raw::GetOuterUserId()
                && self.session == raw::GetSessionUserId()
                && !raw::InSecurityRestrictedOperation()
                && self.place.value(name).is_some_and(|value| raw::strcmp(value, setting.as_ptr()) == 0)
        }
    }

    fn answer(&self, first: &[u8], second: &[u8]) -> Option<bool> {
        self.answers.iter().find(|answered| answered.answers(first, second)).map(|answered| answered.answer)
    }
}

/// An argument of type text that lies there whole.
///
/// # Safety
/// The function has more than `number` arguments, and this one is of type text.
#[inline]
unsafe fn plain_text<'a>(call: FunctionCallInfo, number: usize) -> Option<&'a [u8]> {
    // SAFETY: by the caller's promise the argument is there, and a text when it is not null. A header of one or four
    // bytes that says the text is neither compressed nor kept elsewhere stands before its bytes, which stay for the call.
    unsafe {
        let argument = (*call).args.as_ptr().add(number);
        if (*argument).isnull {
            return None;
        }
        let text: *const pg_sys::varlena = (*argument).value.cast_mut_ptr();
        if pgrx::varlena::varatt_is_1b_e(text) || pgrx::varlena::varatt_is_4b_c(text) {
            return None;
        }
        Some(pgrx::varlena::varlena_to_byte_slice(text))
    }
}

/// The SQL function, of two texts: answers from memory, or asks the function that was registered.
///
/// It bears no panic guard. Nothing in it panics, and an error of PostgreSQL's passes over frames that have nothing
/// to release.
///
/// # Safety
/// Called by PostgreSQL as a function of two texts.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn remembered_answer(call: FunctionCallInfo) -> Datum {
    // SAFETY: messages may be taken in wherever SQL runs. The reference to the memory ends before anything is asked.
    // The registered function is of this signature, and is what `_PG_init` registered before any call.
    unsafe {
        raw::AcceptInvalidationMessages();
        let memory = &*MEMORY.0.get();
        if memory.holds()
            && let Some(first) = plain_text(call, 0)
            && let Some(second) = plain_text(call, 1)
            && let Some(answer) = memory.answer(first, second)
        {
            return Datum::from(answer);
        }
        match memory.asked {
            Some((_, ask)) => ask(call),
            None => Datum::from(false),
        }
    }
}

/// Tells PostgreSQL how [`remembered_answer`] is called.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_remembered_answer() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

//! Errors as PostgreSQL shows them: a code, a message, and a hint that says what to do.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// An error for the user, raised with [`UserError::raise`].
pub struct UserError {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl UserError {
    /// An error with `code` and a message in PostgreSQL's style: lower case, no full stop.
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None }
    }

    /// Adds the facts behind the message.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what to do about it: a statement or a setting.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ends the statement with this error.
    #[track_caller]
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.code, self.message, "busymate_stats");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::UserError;
    use crate::testing::{error_of, run};
    use pgrx::prelude::*;

    #[pg_extern]
    fn raise_user_error() {
        UserError::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the fleet is \"odd\"")
            .detail("It is odd.")
            .hint("Run SELECT 1.")
            .raise()
    }

    #[pg_test]
    fn an_error_has_its_code_message_and_hint() {
        let failure = error_of(|| run("select tests.raise_user_error()"));
        assert_eq!((failure.sqlstate.as_str(), failure.message.as_str()), ("55000", "the fleet is \"odd\""));
        assert_eq!(failure.hint.as_deref(), Some("Run SELECT 1."));
    }

    /// As a function in PL/pgSQL gets it, where no backtrace is in the detail.
    #[pg_test]
    fn an_error_has_the_detail_that_it_was_given_and_no_more() {
        run("do $$ declare detail text; begin perform tests.raise_user_error(); \
             exception when object_not_in_prerequisite_state then \
             get stacked diagnostics detail = pg_exception_detail; \
             assert detail = 'It is odd.', detail; end $$");
    }
}

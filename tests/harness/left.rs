//! What a test leaves behind in a cluster that others use after it: databases that the launcher would go on refreshing,
//! every second in some clusters, for as long as the program runs. When the test's thread ends they are closed.

use postgres::{Config, NoTls};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

struct Databases(Vec<(PathBuf, String)>);

thread_local! {
    static OF_THIS_TEST: RefCell<Databases> = const { RefCell::new(Databases(Vec::new())) };
}

/// `database` is this test's own, in the cluster in `directory`. A thread that a test has started is no test: others may
/// use what it makes.
pub fn is_made(directory: &Path, database: &str) {
    if std::thread::current().name().is_some_and(|name| name.contains("::")) {
        OF_THIS_TEST.with_borrow_mut(|databases| databases.0.push((directory.into(), database.into())));
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let databases = std::mem::take(&mut self.0);
        if databases.is_empty() {
            return;
        }
        // The client has thread-local variables too, which may be gone in this thread.
        std::thread::spawn(move || {
            for (directory, database) in databases {
                // Most clusters end with their test.
                if let Ok(mut client) =
                    Config::new().host_path(&directory).user("postgres").dbname("postgres").connect(NoTls)
                {
                    let _ =
                        client.batch_execute(&format!("alter database {database} allow_connections false"));
                }
            }
        });
    }
}

//! `make install` installs what `make` has built: under sudo there is no cargo, and nothing may be built.

use harness::{CHECKOUT, bin, run};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the Makefile and its scripts call, cargo apart.
const TOOLS: [&str; 13] =
    ["make", "sh", "sed", "find", "head", "stat", "id", "cat", "install", "dirname", "rm", "mkdir", "mv"];

/// A copy of the checkout with the library in it that the tests run with.
struct Checkout {
    directory: PathBuf,
    pg_config: PathBuf,
}

impl Checkout {
    fn copy() -> Self {
        let directory = std::env::temp_dir().join(format!("busymate_stats_install_{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let names =
            ["Makefile", "busymate_stats.control", "Cargo.toml", "Cargo.lock", "scripts", "sql", "src"];
        run(Command::new("cp")
            .arg("-r")
            .args(names.map(|name| Path::new(CHECKOUT).join(name)))
            .arg(&directory));
        let tools = directory.join("tools");
        fs::create_dir(&tools).unwrap();
        for tool in TOOLS {
            let found = run(Command::new("sh").args(["-c", "command -v \"$0\"", tool]));
            symlink(found.trim(), tools.join(tool)).unwrap();
        }
        Self { directory, pg_config: bin().join("pg_config") }
    }

    fn target(&self) -> String {
        let version = run(Command::new(&self.pg_config).arg("--version"));
        let major = version.trim_start_matches("PostgreSQL ").split(['.', ' ', '\n']).next().unwrap();
        format!("target/pg{major}")
    }

    /// What `make` leaves.
    fn put_library(&self) {
        let release = self.directory.join(self.target()).join("release");
        fs::create_dir_all(&release).unwrap();
        fs::copy(std::env::var_os("BUSYMATE_TEST_LIBRARY").unwrap(), release.join("libbusymate_stats.so"))
            .unwrap();
        let built = self.directory.join(format!("{}.built", self.target()));
        fs::write(built, format!("{}\n", self.pg_config.display())).unwrap();
    }

    fn make(&self, goal: &str) -> Output {
        Command::new("make")
            .args(["-s", "-C"])
            .arg(&self.directory)
            .arg(goal)
            .arg(format!("PG_CONFIG={}", self.pg_config.display()))
            .arg(format!("DESTDIR={}/out", self.directory.display()))
            .env("PATH", self.directory.join("tools"))
            .env_remove("VARIANT")
            .env_remove("MAKEFLAGS")
            .env_remove("MAKEOVERRIDES")
            .output()
            .unwrap()
    }

    fn refusal(&self) -> String {
        let output = self.make("install");
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn installed(&self) -> Vec<String> {
        let found = run(Command::new("find")
            .arg(self.directory.join("out"))
            .args(["-type", "f", "-printf", "%f\\n"]));
        let mut names: Vec<String> = found.lines().map(Into::into).collect();
        names.sort();
        names
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn it_needs_no_cargo_when_the_library_is_up_to_date() {
    let checkout = Checkout::copy();
    let refusal = checkout.refusal();
    let cure = format!("run: make PG_CONFIG={}\n", checkout.pg_config.display());
    assert!(refusal.contains("nothing is built for") && refusal.contains(&cure), "{refusal}");

    checkout.put_library();
    let output = checkout.make("install");
    assert!(output.status.success(), "{output:?}");
    let script = format!("busymate_stats--{}.sql", env!("CARGO_PKG_VERSION"));
    assert_eq!(checkout.installed(), [script.as_str(), "busymate_stats.control", "busymate_stats.so"]);

    run(Command::new("touch").args(["-d", "1 minute"]).arg(checkout.directory.join("src/lib.rs")));
    let refusal = checkout.refusal();
    assert!(
        refusal.contains("src/lib.rs has changed since the last build") && refusal.contains(&cure),
        "{refusal}"
    );

    checkout.put_library();
    run(Command::new("touch").args(["-d", "1 hour ago"]).arg(checkout.directory.join("src/lib.rs")));
    fs::write(checkout.directory.join(format!("{}.built", checkout.target())), "/elsewhere/pg_config\n")
        .unwrap();
    let refusal = checkout.refusal();
    assert!(refusal.contains("was built for /elsewhere/pg_config") && refusal.contains(&cure), "{refusal}");

    assert!(checkout.make("uninstall").status.success());
    assert_eq!(checkout.installed(), Vec::<String>::new());
}

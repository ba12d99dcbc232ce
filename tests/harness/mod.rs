//! Throw-away clusters for the tests: made in a temporary directory, run by a user that is not root, reached through a
//! Unix socket only, and gone when the test process ends, however it ends.

use postgres::error::DbError;
use postgres::{Client, Config, NoTls};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub mod access;
pub mod api;
pub mod catalog;
pub mod decoding;
pub mod dump;
pub mod evil;
pub mod fleet;
pub mod gateway;
mod left;
pub mod listeners;
pub mod postgrest;
pub mod postgrest_schema;
pub mod status;
pub mod upgrade;
pub mod worker;

/// How long a condition may take to come true before the test is lost. Never reached when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// The checkout that the tests belong to.
pub const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}

/// The staged server's `bin` directory.
pub fn bin() -> PathBuf {
    variable("BUSYMATE_TEST_BIN").into()
}

/// A staged server.
#[derive(Clone, Debug)]
pub struct Server {
    bin: PathBuf,
    /// Its major version.
    pub major: u32,
}

impl Server {
    /// The server that is tested.
    pub fn under_test() -> Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::at(bin())).clone()
    }

    /// Another one, of that major version: one of those in `BUSYMATE_TEST_OTHER_SERVERS`, as `16=/path/to/bin:18=/path/to/bin`.
    pub fn other(major: u32) -> Option<Self> {
        let listed = std::env::var("BUSYMATE_TEST_OTHER_SERVERS").unwrap_or_default();
        let bin = listed.split(':').find_map(|server| server.strip_prefix(&format!("{major}=")))?;
        let server = Self::at(bin.into());
        assert_eq!(server.major, major, "{bin} in BUSYMATE_TEST_OTHER_SERVERS");
        Some(server)
    }

    fn at(bin: PathBuf) -> Self {
        let version = run(Command::new(bin.join("postgres")).arg("--version"));
        let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
        let major = digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap();
        Self { bin, major }
    }

    /// One of its programs, run as the user that owns the clusters.
    pub fn command(&self, program: &str) -> Command {
        as_server_user(&self.bin.join(program))
    }

    /// Its `bin` directory.
    pub fn bin(&self) -> &Path {
        &self.bin
    }
}

/// Whether the server's installation has an extension.
pub fn has_extension(name: &str) -> bool {
    let share = run(server_command("pg_config").arg("--sharedir"));
    Path::new(share.trim()).join(format!("extension/{name}.control")).exists()
}

/// Says that something is not tested here, past the test runner's capture: `scripts/test-all` lists it at its end.
pub fn left_out(what: &str) {
    let _ = writeln!(std::io::stderr(), "\nleft out: {what}");
}

/// The built library.
pub fn library() -> PathBuf {
    variable("BUSYMATE_TEST_LIBRARY").into()
}

/// The major version of the staged server.
pub fn major() -> u32 {
    Server::under_test().major
}

/// The setting that has every query planned with a parallel worker.
pub fn forces_parallel_plans() -> &'static str {
    if major() < 16 { "force_parallel_mode" } else { "debug_parallel_query" }
}

/// A command of the staged server, run as the user that owns the clusters.
pub fn server_command(program: &str) -> Command {
    as_server_user(&bin().join(program))
}

fn as_server_user(program: &Path) -> Command {
    let user =
        nix::unistd::User::from_name(&variable("BUSYMATE_TEST_USER")).unwrap().expect("the server's user");
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").env_remove("PGUSER").env_remove("PGDATABASE").current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Runs a command to its end; panics with what it printed if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` gives a value.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, condition)
}

/// [`eventually`], with a patience of its own for what is slow by nature.
#[track_caller]
pub fn eventually_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < patience, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One server with its data.
pub struct Cluster {
    server: Server,
    directory: PathBuf,
    /// Stops the server and removes the directory when its standard input closes, so also when this process dies.
    janitor: Child,
    /// What the server finds in its environment.
    environment: Vec<(String, String)>,
}

impl Cluster {
    /// A running cluster with the library preloaded, and `settings` (lines of postgresql.conf) on top.
    pub fn start(settings: &str) -> Self {
        Self::start_with(settings, &[])
    }

    /// [`Self::start`], with these variables in the server's environment.
    pub fn start_with(settings: &str, environment: &[(&str, &str)]) -> Self {
        let mut cluster = Self::initialize(&Server::under_test(), settings, &[]);
        cluster.environment =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        cluster.boot();
        cluster
    }

    /// A new cluster that does not run yet, of any server, with options for initdb.
    pub fn initialize(server: &Server, settings: &str, options: &[&str]) -> Self {
        let cluster = Self::prepare(server, |data| {
            run(server
                .command("initdb")
                .arg("-D")
                .arg(data)
                .args([
                    "--auth=trust",
                    "--username=postgres",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ])
                .args(options));
        });
        cluster.configure(&format!(
            "shared_preload_libraries = 'busymate_stats'\nwal_level = logical\nmax_prepared_transactions = 10\n{settings}"
        ));
        cluster
    }

    /// The server whose programs run it.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The directory of its data.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A hot standby of this cluster, running.
    pub fn standby(&self) -> Self {
        let standby = Self::prepare(&self.server, |data| {
            run(self
                .server
                .command("pg_basebackup")
                .arg("-h")
                .arg(&self.directory)
                .args(["-U", "postgres", "-R", "-X", "stream"])
                .args(["--checkpoint=fast", "--no-sync", "-D"])
                .arg(data));
        });
        standby.configure("");
        standby.boot();
        standby
    }

    fn prepare(server: &Server, make_data: impl FnOnce(&Path)) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("busymate-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name(&variable("BUSYMATE_TEST_USER")).unwrap().unwrap();
            std::os::unix::fs::chown(&directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let data = directory.join("data");
        make_data(&data);
        // A server that crashed by itself is told of in the test's output: the log goes with the directory.
        let script = r#"cat >/dev/null; "$0"/pg_ctl stop -D "$1/data" -m immediate >/dev/null 2>&1
            grep -E -A3 -B40 'was terminated by signal ([0-8]|1[0-9])|PANIC:|fatal runtime error' "$1/log" >&2
            rm -rf "$1""#;
        let mut janitor = server_command("/bin/sh");
        janitor.args(["-c", script]).arg(server.bin()).arg(&directory).stdin(Stdio::piped());
        janitor.stdout(Stdio::null());
        // A Ctrl-C at the terminal must not reach it.
        janitor.process_group(0);
        Self { server: server.clone(), janitor: janitor.spawn().unwrap(), directory, environment: Vec::new() }
    }

    /// Appends lines to postgresql.conf; they count from the next start or reload.
    pub fn configure(&self, settings: &str) {
        let base = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 64MB\n\
             max_connections = 60\nlog_min_messages = info\n{settings}\n",
            self.directory.display()
        );
        let path = self.directory.join("data/postgresql.conf");
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(base.as_bytes()).unwrap();
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        run(self
            .server
            .command("pg_ctl")
            .arg("-D")
            .arg(self.directory.join("data"))
            .arg("-l")
            .arg(self.directory.join("log"))
            .args(["-w", "-t", "60"])
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null()));
    }

    /// Starts a cluster that was made by [`Self::initialize`].
    pub fn boot(&self) {
        self.pg_ctl(&["start"]);
    }

    /// Stops the server: `fast`, `smart` or `immediate`.
    pub fn stop(&self, mode: &str) {
        self.pg_ctl(&["stop", "-m", mode]);
    }

    /// Starts the stopped server.
    pub fn start_again(&self) {
        self.boot();
    }

    /// Stops and starts the server.
    pub fn restart(&self) {
        self.stop("fast");
        self.boot();
    }

    /// Has the server read its configuration again.
    pub fn reload(&self) {
        self.pg_ctl(&["reload"]);
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        self.pg_ctl(&["promote"]);
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("log")).unwrap_or_default()).into_owned()
    }

    /// The directory of the socket, for clients that are not ours.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// The process id of the postmaster.
    pub fn postmaster(&self) -> i32 {
        let pid_file = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap();
        pid_file.lines().next().unwrap().trim().parse().unwrap()
    }

    /// A session of `user` in `database`.
    pub fn connect_as(&self, user: &str, database: &str) -> Client {
        self.try_connect(user, database).unwrap_or_else(|error| panic!("{user} to {database}: {error}"))
    }

    /// A session of `user` in `database`, or why not.
    pub fn try_connect(&self, user: &str, database: &str) -> Result<Client, postgres::Error> {
        Config::new()
            .host_path(&self.directory)
            .user(user)
            .dbname(database)
            .application_name("test")
            .connect(NoTls)
    }

    /// A superuser's session in `database`.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as("postgres", database)
    }

    /// A superuser's session in `database`, and the notices that it is sent.
    pub fn connect_hearing(&self, database: &str) -> (Client, Arc<Mutex<Vec<Refusal>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        let mut config = Config::new();
        config.host_path(&self.directory).user("postgres").dbname(database);
        config.notice_callback(move |notice| ear.lock().unwrap().push(Refusal::from(&notice)));
        (config.connect(NoTls).unwrap(), heard)
    }

    /// A new database; its name is `prefix` and a number. It is closed when the test has ended.
    pub fn create_database(&self, prefix: &str) -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres")
            .batch_execute(&format!("create database {name} template template0"))
            .unwrap();
        left::is_made(&self.directory, &name);
        name
    }

    /// Runs a client program of the server (`pg_dump`, `psql`, …) against this cluster.
    pub fn client_program(&self, program: &str) -> Command {
        let mut command = self.server.command(program);
        command.arg("-h").arg(&self.directory).args(["-U", "postgres"]);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("The server's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// Settings that keep the background worker off: what it does has tests of its own; elsewhere it would write while
/// others look.
pub const NO_WORKER: &str = "busymate_stats.refresh_interval = 0
busymate_stats.seal_interval = 0
busymate_stats.verify_interval = 0
busymate_stats.status_interval = 0";

/// The cluster that all tests of one file share. Each works in a database of its own.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = Cluster::start(NO_WORKER);
        cluster.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
        cluster
    })
}

/// The roles that a Supabase project has, as far as they matter here.
pub const SUPABASE_ROLES: &str = "
    create role anon nologin noinherit;
    create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls;
    create role authenticator login noinherit;
    grant anon, authenticated, service_role to authenticator;
";

/// What Supabase hands out on new objects in `public` and, here, everywhere.
pub const SUPABASE_DEFAULT_PRIVILEGES: &str = "
    alter default privileges grant all on tables to anon, authenticated, service_role;
    alter default privileges grant all on functions to anon, authenticated, service_role;
    alter default privileges grant all on sequences to anon, authenticated, service_role;
    alter default privileges grant usage on schemas to anon, authenticated, service_role;
    alter default privileges grant usage on types to anon, authenticated, service_role;
";

/// A new database in the shared cluster with the extension in it.
pub fn installed(prefix: &str) -> (String, Client) {
    let database = shared().create_database(prefix);
    let mut client = shared().connect(&database);
    client.batch_execute("create extension busymate_stats").unwrap();
    (database, client)
}

/// What a failed statement reported, or a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl From<&DbError> for Refusal {
    fn from(report: &DbError) -> Self {
        Self {
            code: report.code().code().into(),
            message: report.message().into(),
            detail: report.detail().unwrap_or_default().into(),
            hint: report.hint().unwrap_or_default().into(),
        }
    }
}

/// Runs statements that must fail, and gives the error.
#[track_caller]
pub fn refusal(client: &mut Client, statements: &str) -> Refusal {
    match client.batch_execute(statements) {
        Ok(()) => panic!("did not fail: {statements}"),
        Err(error) => refusal_of(&error),
    }
}

/// The server's part of an error.
#[track_caller]
pub fn refusal_of(error: &postgres::Error) -> Refusal {
    error.as_db_error().unwrap_or_else(|| panic!("not an error of the server: {error}")).into()
}

/// The single value of a query; panics on NULL, so ask for an `Option` where it may be one.
#[track_caller]
pub fn value<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, query: &str) -> T {
    match client.query_one(query, &[]) {
        Ok(row) => row.get(0),
        Err(error) => panic!("{query}: {error:?}"),
    }
}

/// Runs `work` in a transaction as PostgREST sets one up: `role` by SET LOCAL ROLE, `claims` in the setting; read-only.
/// Rolled back at the end, whatever happened.
pub fn as_caller<T>(
    client: &mut Client,
    role: &str,
    claims: Option<&str>,
    work: impl FnOnce(&mut Client) -> T,
) -> T {
    client.batch_execute("begin isolation level read committed read only").unwrap();
    if let Some(claims) = claims {
        client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims]).unwrap();
    }
    client.execute("select set_config('role', $1, true)", &[&role]).unwrap();
    let result = work(client);
    client.batch_execute("rollback").unwrap();
    result
}

//! Promise: `has_capability` is exact. Random grants, revokes, assignments, revoked tokens, savepoints and rollbacks over
//! three sessions, asked under changing logins, roles, claims and settings, held against a model that is slow and obvious.
//!
//! The seed is printed; `BUSYMATE_TEST_SEED=…` runs the same history again.

use harness::fleet::fleet;
use harness::{shared, value};
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};

const STEPS: usize = 3_000;
const SUBS: [&str; 4] = ["s0", "s1", "s2", "s3"];
const ROLES: [&str; 6] = ["r0", "r1", "r2", "r3", "admin", "viewer"];
const CUSTOM: u64 = 4;
const PARTS: [&str; 4] = ["a", "b", "view", "*"];
const TOKENS: [&str; 3] = ["t0", "t1", "t2"];

/// A linear congruential generator: Knuth's constants for MMIX.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A token: what its claims say.
#[derive(Clone, Debug)]
struct Token {
    sub: Option<&'static str>,
    jti: Option<&'static str>,
    /// Roles, and the claim that names them.
    roles: Vec<&'static str>,
    named_by: &'static str,
}

impl Token {
    fn random(random: &mut Random) -> Self {
        Self {
            sub: (random.below(5) > 0).then(|| random.of(&SUBS)),
            jti: (random.below(2) > 0).then(|| random.of(&TOKENS)),
            roles: (0..random.below(3)).map(|_| random.of(&ROLES)).collect(),
            named_by: random.of(&["user_role", "app.roles"]),
        }
    }

    fn claims(&self) -> String {
        let roles = match self.roles.as_slice() {
            [one] => serde_json::json!(one),
            several => serde_json::json!(several),
        };
        let mut claims = match self.named_by.split_once('.') {
            Some((outer, inner)) => serde_json::json!({ outer: { inner: roles } }),
            None => serde_json::json!({ self.named_by: roles }),
        };
        for (key, value) in [("sub", self.sub), ("jti", self.jti)] {
            if let Some(value) = value {
                claims[key] = value.into();
            }
        }
        claims.to_string()
    }
}

/// Under what a session asks: its login, its role, and two settings.
#[derive(Clone, Debug)]
struct Guise {
    login: &'static str,
    role: &'static str,
    trusted: &'static str,
    role_claim: &'static str,
}

impl Guise {
    fn random(random: &mut Random) -> Self {
        let login = random.of(&["postgres", "authenticator", "authenticator", "service_role"]);
        Self {
            login,
            role: random.of(&["none", "anon", "authenticated", "authenticated"]),
            trusted: random.of(&["", "", "authenticator", "postgres, service_role"]),
            role_claim: random.of(&["", "user_role", "app.roles"]),
        }
    }

    fn put_on(&self, client: &mut Client) {
        let Self { login, role, trusted, role_claim } = self;
        client
            .batch_execute(&format!(
                "set busymate_stats.claims_trusted_from = '{trusted}'; set busymate_stats.role_claim = '{role_claim}';
                 set session authorization {login}"
            ))
            .unwrap();
        // A role that the login is no member of stays off.
        if *login != "service_role" {
            client.batch_execute(&format!("set role {role}")).unwrap();
        }
    }

    fn bypasses_rls(&self) -> bool {
        self.login == "service_role" || self.login == "postgres" && self.role == "none"
    }

    fn is_trusted(&self) -> bool {
        self.trusted.is_empty() || self.trusted.split(", ").any(|login| login == self.login)
    }
}

/// Who has which role, what each role grants, and which tokens are revoked.
#[derive(Clone, Debug)]
struct Model {
    revoked: BTreeSet<&'static str>,
    roles: BTreeMap<&'static str, BTreeSet<(&'static str, &'static str)>>,
    users: BTreeSet<(&'static str, &'static str)>,
}

impl Model {
    fn new() -> Self {
        Self {
            roles: [("admin", [("*", "*")].into()), ("viewer", [("*", "view")].into())].into(),
            users: BTreeSet::new(),
            revoked: BTreeSet::new(),
        }
    }

    fn holds(&self, guise: &Guise, token: &Token, section: &str, action: &str) -> bool {
        if guise.bypasses_rls() {
            return true;
        }
        if !guise.is_trusted() || token.jti.is_some_and(|jti| self.revoked.contains(jti)) {
            return false;
        }
        let matches = |granted: &str, asked: &str| granted == "*" || granted == asked;
        let named = token.roles.iter().filter(|_| guise.role_claim == token.named_by);
        let assigned = self.users.iter().filter(|(user, _)| token.sub == Some(user)).map(|(_, role)| role);
        named
            .chain(assigned)
            .filter_map(|role| self.roles.get(role))
            .flatten()
            .any(|(s, a)| matches(s, section) && matches(a, action))
    }
}

/// One change: in the model, and the statement that makes it.
fn change(model: &mut Model, random: &mut Random) -> String {
    let custom = ROLES[random.below(CUSTOM) as usize];
    let (section, action) = (random.of(&PARTS), random.of(&PARTS));
    let (sub, role, token) = (random.of(&SUBS), random.of(&ROLES), random.of(&TOKENS));
    match random.below(15) {
        12 if token == "t0" && section == "*" => {
            model.revoked.clear();
            "truncate busymate_stats.revoked_tokens".into()
        }
        12 | 13 => {
            model.revoked.insert(token);
            format!(
                "insert into busymate_stats.revoked_tokens (jti) values ('{token}') on conflict do nothing"
            )
        }
        14 => {
            model.revoked.remove(token);
            format!("delete from busymate_stats.revoked_tokens where jti = '{token}'")
        }
        0 if model.roles.remove(custom).is_some() => {
            model.users.retain(|(_, had)| *had != custom);
            format!("delete from busymate_stats.roles where name = '{custom}'")
        }
        1 if sub == "s0" => {
            model.users.clear();
            "truncate busymate_stats.user_roles".into()
        }
        2 => {
            model.users =
                model.users.iter().map(|(user, had)| (*user, *had)).filter(|(u, _)| *u != sub).collect();
            format!("delete from busymate_stats.user_roles where sub = '{sub}'")
        }
        3..=5 if model.roles.contains_key(custom) => {
            if let Some(grants) = model.roles.get_mut(custom) {
                grants.insert((section, action));
            }
            format!("select busymate_stats.grant_capability('{custom}', '{section}:{action}')")
        }
        6 if model.roles.contains_key(custom) => {
            if let Some(grants) = model.roles.get_mut(custom) {
                grants.clear();
            }
            format!("delete from busymate_stats.role_capabilities where role = '{custom}'")
        }
        7 if model.roles.contains_key(role) => {
            model.users.remove(&(sub, role));
            format!("select busymate_stats.unassign_role('{sub}', '{role}')")
        }
        8..=11 if model.roles.contains_key(role) => {
            model.users.insert((sub, role));
            format!("select busymate_stats.assign_role('{sub}', '{role}')")
        }
        _ => {
            model.roles.entry(custom).or_default();
            format!("insert into busymate_stats.roles (name) values ('{custom}') on conflict do nothing")
        }
    }
}

/// All answers for some tokens, in one statement that switches claims row by row, as Realtime does.
const ASK: &str = "
    select token::int, section, action,
           set_config('request.jwt.claims', claims, false) is not null and public.has_capability(section, action)
      from unnest($1::text[]) with ordinality tokens (claims, token),
           unnest(array['a', 'b', '*', 'x']) section, unnest(array['a', 'view', '*']) action
     order by random()";

#[track_caller]
fn assert_answers(client: &mut Client, model: &Model, random: &mut Random, history: &[String]) {
    let guise = Guise::random(random);
    let tokens: Vec<_> = (0..6).map(|_| Token::random(random)).collect();
    let mut claims: Vec<_> = tokens.iter().map(Token::claims).collect();
    claims.push(
        random
            .of(&["", "garbage", "[]", r#"{"sub":"s0","sub":"s0"}"#, r#"{"sub":7,"user_role":"admin"}"#])
            .into(),
    );
    guise.put_on(client);
    for row in client.query(ASK, &[&claims]).unwrap() {
        let (number, section, action): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let expected = match tokens.get(number as usize - 1) {
            Some(token) => model.holds(&guise, token, section, action),
            None => guise.bypasses_rls(),
        };
        assert_eq!(
            row.get::<_, bool>(3),
            expected,
            "{section}:{action} for {} as {guise:?} after\n{}\n{model:?}",
            claims[number as usize - 1],
            history.join("\n")
        );
    }
    client.batch_execute("reset session authorization; set role none").unwrap();
}

/// Three sessions, of which one at a time writes; the others sit in transactions of any isolation level, or in none.
struct History {
    sessions: Vec<Client>,
    readers_open: [bool; 3],
    /// The session whose transaction writes, and its model at each savepoint, the innermost last.
    writer: Option<(usize, Vec<Model>)>,
    committed: Model,
    log: Vec<String>,
}

impl History {
    fn run(&mut self, session: usize, statement: &str) {
        self.log.push(format!("{session}: {statement}"));
        if let Err(error) = self.sessions[session].batch_execute(statement) {
            panic!("{error:?} after\n{}", self.log.join("\n"));
        }
    }

    fn step(&mut self, random: &mut Random) {
        let session = random.below(3) as usize;
        match self.writer.take() {
            None => self.step_without_writer(session, random),
            Some((writer, levels)) if writer != session => {
                self.writer = Some((writer, levels));
                self.toggle_reader(session, random);
            }
            Some((writer, levels)) => self.writer = self.step_of_writer(writer, levels, random),
        }
    }

    fn toggle_reader(&mut self, session: usize, random: &mut Random) {
        let open = self.readers_open[session];
        let isolation = random.of(&["read committed", "repeatable read", "serializable"]);
        let end = random.of(&["commit", "rollback"]);
        if open {
            self.run(session, end);
        } else {
            self.run(session, &format!("begin isolation level {isolation}"));
        }
        self.readers_open[session] = !open;
    }

    fn step_without_writer(&mut self, session: usize, random: &mut Random) {
        if self.readers_open[session] || random.below(4) == 0 {
            self.toggle_reader(session, random);
        } else if random.below(3) == 0 {
            let statement = change(&mut self.committed, random);
            self.run(session, &statement);
        } else {
            self.run(session, "begin");
            self.writer = Some((session, vec![self.committed.clone()]));
        }
    }

    fn step_of_writer(
        &mut self,
        writer: usize,
        mut levels: Vec<Model>,
        random: &mut Random,
    ) -> Option<(usize, Vec<Model>)> {
        let mut now = levels.pop().unwrap();
        match random.below(12) {
            0 => {
                self.run(writer, "commit");
                self.committed = now;
                return None;
            }
            1 => {
                self.run(writer, "rollback");
                return None;
            }
            2 | 3 => {
                self.run(writer, &format!("savepoint s{}", levels.len()));
                levels.extend([now.clone(), now]);
            }
            4 | 5 if !levels.is_empty() => {
                let back_to = random.below(levels.len() as u64) as usize;
                self.run(writer, &format!("rollback to s{back_to}"));
                levels.truncate(back_to + 1);
                levels.push(levels[back_to].clone());
            }
            6 if !levels.is_empty() => {
                let released = random.below(levels.len() as u64) as usize;
                self.run(writer, &format!("release s{released}"));
                levels.truncate(released);
                levels.push(now);
            }
            _ => {
                let statement = change(&mut now, random);
                self.run(writer, &statement);
                levels.push(now);
            }
        }
        Some((writer, levels))
    }

    fn check(&mut self, session: usize, random: &mut Random) {
        let model = match &self.writer {
            Some((writer, levels)) if *writer == session => levels.last().unwrap(),
            // TRUNCATE keeps readers out until its transaction ends.
            Some(_) if self.truncated() => return,
            _ => &self.committed,
        };
        assert_answers(&mut self.sessions[session], model, random, &self.log);
        if self.readers_open[session] {
            let id: Option<String> =
                value(&mut self.sessions[session], "select pg_current_xact_id_if_assigned()::text");
            assert_eq!(id, None, "a read took a transaction id");
        }
    }

    /// Whether the open transaction may hold the lock of a TRUNCATE.
    fn truncated(&self) -> bool {
        let begun = self.log.iter().rposition(|line| line.ends_with(": begin")).unwrap_or(0);
        self.log[begun..].iter().any(|line| line.contains("truncate"))
    }
}

#[test]
fn random_histories() {
    let seed = match std::env::var("BUSYMATE_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        }
    };
    println!("BUSYMATE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (database, _) = fleet("model");
    let mut history = History {
        sessions: (0..3).map(|_| shared().connect(&database)).collect(),
        readers_open: [false; 3],
        writer: None,
        committed: Model::new(),
        log: Vec::new(),
    };
    for _ in 0..STEPS {
        history.step(&mut random);
        for session in 0..3 {
            history.check(session, &mut random);
        }
    }
}

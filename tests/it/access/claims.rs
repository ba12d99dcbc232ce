//! Promise: whatever the claims hold, the answer is yes or no, never an error, and no name but the token's own `sub`
//! opens anything.

use harness::access::{claims, make_user, may, sign_in};
use harness::fleet::fleet;
use harness::{Cluster, as_caller, shared, value};
use postgres::Client;

const MEGABYTE: usize = 1 << 20;

/// Claims that name the viewer `v`.
fn that_name_the_viewer() -> Vec<String> {
    let mut claims: Vec<String> = [
        r#"{"sub":"v"}"#,
        " \t\r\n{ \"sub\" : \"v\" }\n",
        r#"{"s\u0075b":"\u0076"}"#,
        r#"{"sub":"v","role":"authenticated","exp":1795462656,"aud":["a","b"],"app_metadata":{"sub":"nobody"}}"#,
        r#"{"role":7,"roles":null,"exp":1e999999,"sub":"v"}"#,
        r#"{"sub":"v","SUB":"nobody","":1,"":2}"#,
    ]
    .map(String::from)
    .to_vec();
    claims.push(format!(r#"{{"padding":"{}","sub":"v"}}"#, "x".repeat(MEGABYTE)));
    claims.push(format!(r#"{{"sub":"v","deep":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000)));
    claims
}

/// Claims that name nobody who may do anything.
fn that_name_nobody() -> Vec<String> {
    let mut claims: Vec<String> = [
        "",
        " ",
        "null",
        "true",
        "0",
        "v",
        "\"v\"",
        "garbage",
        "{",
        "{}",
        "[]",
        r#"["v"]"#,
        r#"[{"sub":"v"}]"#,
        r#"{"sub":"v""#,
        r#"{"sub":"v"}}"#,
        r#"{"sub":"v"} {"sub":"v"}"#,
        r#"{'sub':'v'}"#,
        r#"{sub:"v"}"#,
        r#"{"sub":"v",}"#,
        r#"{"sub":"nobody"}"#,
        r#"{"sub":"V"}"#,
        r#"{"sub":"v "}"#,
        r#"{"sub":"v\u0000"}"#,
        r#"{"sub":"v\ud800"}"#,
        r#"{"sub":"%"}"#,
        r#"{"sub":"*"}"#,
        r#"{"sub":"' or true --"}"#,
        r#"{"sub":""}"#,
        r#"{"sub":null}"#,
        r#"{"sub":true}"#,
        r#"{"sub":["v"]}"#,
        r#"{"sub":{"v":"v"}}"#,
        r#"{"sub":"v","sub":"v"}"#,
        r#"{"sub":"nobody","sub":"v"}"#,
        r#"{"sub":"v","sub":"nobody"}"#,
        r#"{"Sub":"v"}"#,
        r#"{"sub ":"v"}"#,
        r#"{"user":{"sub":"v"}}"#,
        r#"{"role":"viewer"}"#,
        r#"{"sub":"viewer","role":"service_role"}"#,
    ]
    .map(String::from)
    .to_vec();
    claims.push("\u{feff}{\"sub\":\"v\"}".into());
    claims.push("x".repeat(MEGABYTE));
    claims.push(format!(r#"{{"sub":"{}"}}"#, "v".repeat(MEGABYTE)));
    claims.push(format!(r#"{{"sub":"v","padding":"{}"#, "x".repeat(MEGABYTE)));
    claims.push("[".repeat(100_000));
    claims.push(format!("{}\"sub\":\"v\"", r#"{"a":"#.repeat(100_000)));
    claims
}

const GRANTS: &str = "
    select busymate_stats.grant_api('anon'), busymate_stats.grant_api();
    select busymate_stats.assign_role('v', 'viewer');
    select busymate_stats.refresh_stats();
    insert into public.service_status (snapshot) values ('{}');
    grant select on busymate_stats.my_capabilities to anon, authenticated;
";

/// What one caller gets on all surfaces, which is all or nothing.
#[track_caller]
fn assert_sees(client: &mut Client, claims: &str, expected: bool) {
    let everything: Vec<bool> = value(
        client,
        "select array[public.has_capability('stats', 'view'), public.has_capability('status', 'view'),
                      public.get_stats() is not null,
                      exists (select from public.service_stats), exists (select from public.service_status),
                      exists (select from busymate_stats.my_capabilities)]",
    );
    assert_eq!(everything, [expected; 6], "{claims:.80}");
    assert!(!may(client, "stats", "edit"), "{claims:.80}");
}

#[test]
fn all_claims_give_an_answer() {
    let (_, mut client) = fleet("claims");
    client.batch_execute(GRANTS).unwrap();
    for role in ["anon", "authenticated"] {
        for claims in that_name_nobody() {
            as_caller(&mut client, role, Some(&claims), |client| assert_sees(client, &claims, false));
        }
        for claims in that_name_the_viewer() {
            as_caller(&mut client, role, Some(&claims), |client| assert_sees(client, &claims, true));
        }
    }
}

/// Realtime's way: the claims change many times inside one transaction, in both directions.
#[test]
fn claims_that_change_within_a_transaction() {
    let (_, mut client) = fleet("switched");
    client.batch_execute(GRANTS).unwrap();
    client.batch_execute("begin; set local role authenticated").unwrap();
    for _ in 0..3 {
        for (sub, expected) in [("v", true), ("nobody", false), ("v", true), ("", false)] {
            let claims = claims(sub);
            client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims]).unwrap();
            assert_sees(&mut client, &claims, expected);
        }
        client.batch_execute("set local role postgres").unwrap();
        assert!(may(&mut client, "stats", "edit"));
        client.batch_execute("set local role authenticated").unwrap();
        assert_sees(&mut client, "", false);
    }
    // Rolling back to before the switch brings the earlier claims back.
    let viewer = claims("v");
    client.execute("select set_config('request.jwt.claims', $1, true)", &[&viewer]).unwrap();
    client.batch_execute("savepoint s; set local \"request.jwt.claims\" = '{}'").unwrap();
    assert_sees(&mut client, "{}", false);
    client.batch_execute("rollback to s").unwrap();
    assert_sees(&mut client, &viewer, true);
}

/// A pooled connection: the setting is unknown before its first use, and empty ever after.
#[test]
fn between_two_requests_of_a_pooled_connection() {
    let (database, mut superuser) = fleet("pooled");
    superuser.batch_execute(GRANTS).unwrap();
    let mut client = shared().connect_as("authenticator", &database);
    client.batch_execute("set role authenticated").unwrap();
    assert_sees(&mut client, "never set", false);
    as_caller(&mut client, "authenticated", Some(&claims("v")), |client| assert_sees(client, "v", true));
    let left: Option<String> = value(&mut client, "select current_setting('request.jwt.claims', true)");
    assert_eq!(left.as_deref(), Some(""));
    assert_sees(&mut client, "after a request", false);
}

#[test]
fn a_null_argument_is_false_for_everybody() {
    let (_, mut client) = fleet("nulls");
    client.batch_execute("select busymate_stats.assign_role('boss', 'admin')").unwrap();
    for role in ["postgres", "service_role", "authenticated"] {
        as_caller(&mut client, role, Some(&claims("boss")), |client| {
            assert!(may(client, "stats", "view"), "{role}");
            for arguments in ["null, 'view'", "'stats', null", "null, null"] {
                let call = format!("select public.has_capability({arguments})");
                assert_eq!(value::<Option<bool>>(client, &call), Some(false), "{role}: {arguments}");
            }
        });
    }
}

/// Arguments are matched literally: the wildcard counts where it was granted, not where it is asked for.
#[test]
fn arguments_are_matched_literally() {
    let (_, mut client) = fleet("literal");
    make_user(&mut client, "one", &["stats:view"]);
    make_user(&mut client, "section", &["stats:*"]);
    make_user(&mut client, "action", &["*:view"]);
    for (sub, held) in [
        ("one", &[("stats", "view")][..]),
        ("section", &[("stats", "view"), ("stats", "edit"), ("stats", "*"), ("stats", "")]),
        ("action", &[("stats", "view"), ("tokens", "view"), ("*", "view"), ("", "view"), ("stat_", "view")]),
    ] {
        as_caller(&mut client, "authenticated", Some(&claims(sub)), |client| {
            for section in ["stats", "tokens", "*", "", "stat_", "Stats", "stats ", "stats:view"] {
                for action in ["view", "edit", "*", "", "VIEW", "%"] {
                    let expected = held.contains(&(section, action))
                        || sub == "section" && section == "stats"
                        || sub == "action" && action == "view";
                    assert_eq!(may(client, section, action), expected, "{sub}: {section}:{action}");
                }
            }
        });
    }
}

/// A SQL_ASCII database takes any bytes as claims.
#[test]
fn bytes_that_are_no_text() {
    let cluster = shared();
    cluster
        .connect("postgres")
        .batch_execute("create database bytes template template0 encoding 'SQL_ASCII' locale 'C'")
        .unwrap();
    let mut client = cluster.connect("bytes");
    client
        .batch_execute("create extension busymate_stats; select busymate_stats.assign_role('v', 'viewer')")
        .unwrap();
    for (claims, expected) in [(r#"{"sub":"v"}"#, true), (r#"{"sub":"v\377"}"#, false), (r"\377", false)] {
        client
            .batch_execute(&format!(
                "begin; set local \"request.jwt.claims\" = E'{claims}'; set local role authenticated"
            ))
            .unwrap();
        assert_eq!(may(&mut client, "stats", "view"), expected, "{claims}");
        // The arguments may be no text either: no grant matches, and nothing is raised.
        let question = r"select array[public.has_capability(E'stats\377', 'view'), public.has_capability('stats', E'\377'),
            public.has_capability(E'\357\277\275', 'edit')]";
        for _ in 0..2 {
            let held: Vec<bool> = value(&mut client, question);
            assert_eq!(held, [expected, false, false], "{claims}");
        }
        client.batch_execute("rollback").unwrap();
    }
    // A grant of such bytes is matched byte by byte, and not by the sign that stands for what cannot be shown.
    client
        .batch_execute(
            r"insert into busymate_stats.roles (name) values ('bytes');
              set session_replication_role = replica;
              insert into busymate_stats.role_capabilities (role, section, action) values ('bytes', E'\377', 'edit');
              reset session_replication_role;
              insert into busymate_stats.user_roles (sub, role) values ('b', 'bytes')",
        )
        .unwrap();
    sign_in(&mut client, "authenticated", r#"{"sub":"b"}"#);
    let held: Vec<bool> = value(
        &mut client,
        r"select array[public.has_capability(E'\377', 'edit'), public.has_capability(E'\357\277\275', 'edit')]",
    );
    assert_eq!(held, [true, false]);
}

/// Random bytes, and tokens of a viewer that were cut, doubled or overwritten somewhere. The seed is printed.
#[test]
fn fuzzed_claims() {
    let cluster = shared();
    cluster
        .connect("postgres")
        .batch_execute("create database fuzzed template template0 encoding 'SQL_ASCII' locale 'C'")
        .unwrap();
    let mut client = cluster.connect("fuzzed");
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.assign_role('v', 'viewer');
             set busymate_stats.role_claim = 'app.role'",
        )
        .unwrap();
    let seed = std::env::var("BUSYMATE_TEST_SEED").map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |seed| seed.parse::<u64>().unwrap(),
    );
    println!("BUSYMATE_TEST_SEED={seed}");
    let mut state = seed;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let whole = br#"{"sub":"v","jti":"t","app":{"role":["viewer","x"]},"n":[1e9,-0.5,null,true,"\u0000\ud83d\ude00"]}"#;
    let mut all = Vec::new();
    for round in 0..20_000 {
        let mut claims = whole.to_vec();
        match round % 4 {
            0 => claims = (0..below(60)).map(|_| 1 + below(255) as u8).collect(),
            1 => claims.truncate(below(whole.len())),
            2 => {
                for _ in 0..=below(3) {
                    let at = below(claims.len());
                    claims[at] = 1 + below(255) as u8;
                }
            }
            _ => {
                let (from, to) = (below(whole.len()), below(whole.len()));
                let part = whole[from.min(to)..from.max(to)].to_vec();
                let at = below(claims.len());
                claims.splice(at..at, part);
            }
        }
        all.push(claims);
    }
    // Whatever says that it is the viewer must be JSON that says so: PostgreSQL's own parser is asked.
    client.batch_execute("set role authenticated").unwrap();
    let rows = client
        .query(
            "select claims from unnest($1::bytea[]) claims
              where case when set_config('request.jwt.claims', convert_from(claims, 'SQL_ASCII'), false) is not null
                         then public.has_capability('stats', 'view') end",
            &[&all],
        )
        .unwrap();
    assert!(!rows.is_empty() && rows.len() < all.len() / 2, "{} of {}", rows.len(), all.len());
    for row in rows {
        let claims: &[u8] = row.get(0);
        let text = String::from_utf8_lossy(claims);
        let token: serde_json::Value = match serde_json::from_str(&text) {
            Ok(token) => token,
            // In claims that do not matter, what is not looked at need not make sense.
            Err(error)
                if ["number out of range", "hex escape", "surrogate"]
                    .iter()
                    .any(|why| error.to_string().contains(why)) =>
            {
                continue;
            }
            Err(error) => panic!("{text}: {error}"),
        };
        let roles = &token["app"]["role"];
        let named = roles == "viewer"
            || roles.as_array().is_some_and(|roles| {
                roles.iter().all(serde_json::Value::is_string) && roles.iter().any(|role| role == "viewer")
            });
        assert!(token["sub"] == "v" || named, "{text}");
    }
}

/// What the role itself is, not what it was when the session began, decides who needs no capability.
#[test]
fn attributes_of_the_role_are_todays() {
    let (database, mut superuser) = fleet("attributes");
    superuser
        .batch_execute("create role demoted login superuser; create role dropped login bypassrls")
        .unwrap();
    for (role, change, then) in [
        ("demoted", "alter role demoted nosuperuser", false),
        ("dropped", "alter role dropped nobypassrls", false),
        ("dropped", "alter role dropped bypassrls", true),
        ("dropped", "drop role dropped", false),
    ] {
        let mut client = shared().connect_as(role, &database);
        // With claims, of nobody, answers are remembered.
        client.batch_execute("set request.jwt.claims = '{}'").unwrap();
        let ask = client.prepare("select public.has_capability('stats', 'view')").unwrap();
        client.batch_execute("begin isolation level repeatable read").unwrap();
        client.query_one(&ask, &[]).unwrap();
        let before: bool = client.query_one(&ask, &[]).unwrap().get(0);
        superuser.batch_execute(change).unwrap();
        let after: bool = client.query_one(&ask, &[]).unwrap().get(0);
        assert_eq!((before, after), (!then, then), "{change}");
    }
}

/// Without preloading, the first call loads the library: nothing that a caller set before then counts.
#[test]
fn a_session_that_loads_the_library_late() {
    let cluster = Cluster::start("shared_preload_libraries = ''");
    let mut superuser = cluster.connect("postgres");
    superuser
        .batch_execute(
            "create extension busymate_stats; create role late login; select busymate_stats.assign_role('v', 'viewer');
             grant usage on schema busymate_stats to late; grant select on busymate_stats.my_capabilities to late",
        )
        .unwrap();
    let count = "select count(*) from busymate_stats.my_capabilities";
    let mut client = cluster.connect_as("late", "postgres");
    assert_eq!(value::<i64>(&mut client, count), 0);
    let mut client = cluster.connect_as("late", "postgres");
    let forged = r#"[{"section":"*","action":"*"}]"#;
    client.batch_execute(&format!("set busymate_stats.my_capabilities = '{forged}'")).unwrap();
    assert!(!may(&mut client, "stats", "view"));
    assert_eq!(value::<i64>(&mut client, count), 0);
    sign_in(&mut client, "none", &claims("v"));
    assert_eq!(value::<i64>(&mut client, count), 1);
}

/// The memory of the session's server process.
fn resident_bytes(client: &mut Client) -> usize {
    let pid: i32 = value(client, "select pg_backend_pid()");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Realtime asks for thousands of subscribers in one session. What is remembered of them stays small.
#[test]
fn memory_does_not_grow_with_the_number_of_callers() {
    let (_, mut client) = fleet("many");
    client.batch_execute(GRANTS).unwrap();
    let ask = |client: &mut Client, first: usize, callers: usize, padding: usize| {
        let held: i64 = value(
            client,
            &format!(
                "select count(*) from generate_series({first}, {first} + {callers} - 1) n
                  where case when set_config('request.jwt.claims',
                                 jsonb_build_object('sub', 'v', 'n', n, 'padding', repeat('x', {padding}))::text, false) <> ''
                             then public.has_capability('stats', 'view') end"
            ),
        );
        assert_eq!(held as usize, callers);
    };
    client.batch_execute("set role authenticated").unwrap();
    ask(&mut client, 0, 3_000, 4_000);
    ask(&mut client, 0, 10, 50_000);
    let before = resident_bytes(&mut client);
    // Kept whole, the many would take 120 MB, and the thousand largest 50.
    ask(&mut client, 3_000, 30_000, 4_000);
    ask(&mut client, 0, 1_000, 50_000);
    let grown = resident_bytes(&mut client).saturating_sub(before);
    assert!(grown < 20 << 20, "grew by {grown} bytes");
    assert!(may(&mut client, "stats", "view"));
    let before = resident_bytes(&mut client);
    ask(&mut client, 0, 1_000_000, 0);
    let grown = resident_bytes(&mut client).saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes with a million");
}

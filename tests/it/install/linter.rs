//! Promise: the Supabase linter finds nothing. Each of its conditions that looks at extensions' objects too, put into a
//! query of our own, finds none of ours where Supabase's roles and default privileges are, and the API is granted. One
//! is left out: 0027 names every table that signed-in users may read where pg_graphql is, and Realtime needs them to.

use harness::catalog::{MEMBERS, with_planted};
use harness::{SUPABASE_DEFAULT_PRIVILEGES, shared};
use postgres::Client;

/// A condition of the linter, by its number there.
struct Lint {
    number: &'static str,
    /// Gives the class and the OID of each offender; of a policy's or a column's, the table.
    offenders: &'static str,
    /// What makes one, and its name.
    plant: &'static str,
    planted: &'static str,
}

/// The expressions of all policies in force.
macro_rules! policy_expressions {
    () => {
        "(select p.polrelid, e.expression
            from pg_policy p join pg_class c on c.oid = p.polrelid and c.relrowsecurity,
                 lateral (values (pg_get_expr(p.polqual, p.polrelid)),
                                 (pg_get_expr(p.polwithcheck, p.polrelid))) e (expression)
           where e.expression is not null)"
    };
}

/// Calls that depend on the caller only, evaluated anew for each row. What stands in a sub-select is not; ours count as
/// well as Supabase's.
const PER_ROW: &str = concat!(
    "select 'pg_class'::regclass, polrelid from ",
    policy_expressions!(),
    " p where regexp_replace(expression, '\\( SELECT ([^()]|\\([^()]*\\))*\\)', '', 'g')
                    ~ '(auth\\.(uid|jwt|role|email)|current_setting|has_capability)\\('"
);

const LINTS: &[Lint] = &[
    Lint {
        number: "0003",
        offenders: PER_ROW,
        plant: "create schema auth; create function auth.uid() returns uuid language sql as 'select null::uuid';
                create policy planted on public.entries using (auth.uid() = device_uuid)",
        planted: "table public.entries",
    },
    Lint {
        number: "0003",
        offenders: PER_ROW,
        plant: "alter policy service_stats_view on public.service_stats using (public.has_capability('stats', 'view'))",
        planted: "table public.service_stats",
    },
    Lint {
        number: "0013",
        offenders: "select 'pg_class'::regclass, oid from pg_class
                     where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and not relrowsecurity",
        plant: "alter table public.service_status disable row level security",
        planted: "table public.service_status",
    },
    Lint {
        number: "0014",
        offenders: "select 'pg_extension'::regclass, oid from pg_extension
                     where extnamespace = 'public'::regnamespace and extname <> 'plpgsql'",
        plant: "update pg_extension set extnamespace = 'public'::regnamespace where extname = 'busymate_stats'",
        planted: "extension busymate_stats",
    },
    // Users edit their own user_metadata.
    Lint {
        number: "0015",
        offenders: concat!(
            "select 'pg_class'::regclass, polrelid from ",
            policy_expressions!(),
            " p where expression ~ '(auth\\.jwt\\(\\)|request\\.jwt\\.claims).*user_metadata'"
        ),
        plant: "alter policy roles_update on busymate_stats.roles
                using ((current_setting('request.jwt.claims')::jsonb -> 'user_metadata') ? 'x')",
        planted: "table busymate_stats.roles",
    },
    // pg_upgrade cannot carry them over; regclass, regtype and regrole it can.
    Lint {
        number: "0018",
        offenders: "select 'pg_class'::regclass, attrelid from pg_attribute a
                     where not attisdropped and format_type(atttypid, null) ~ '^reg(?!(class|type|role)$)[a-z]+$'
                       and (select relnamespace >= 16384 or relnamespace = 'public'::regnamespace
                              from pg_class where oid = attrelid)",
        plant: "alter table busymate_stats_internal.attachment add planted regprocedure",
        planted: "table busymate_stats_internal.attachment",
    },
    Lint {
        number: "0022",
        offenders: "select 'pg_extension'::regclass, e.oid from pg_extension e
                      join pg_available_extensions a on a.name = e.extname where a.default_version <> e.extversion",
        plant: "update pg_extension set extversion = '0.0.9' where extname = 'busymate_stats'",
        planted: "extension busymate_stats",
    },
    // Names that hint at a secret or a person, where users read every row.
    Lint {
        number: "0023",
        offenders: "select 'pg_class'::regclass, a.attrelid from pg_attribute a join pg_class c on c.oid = a.attrelid
                     where c.relkind = 'r' and not c.relrowsecurity and not a.attisdropped
                       and (has_table_privilege('anon', c.oid, 'select')
                            or has_table_privilege('authenticated', c.oid, 'select'))
                       and c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
                       and a.attname ~* '(pass|secret|token|jwt|code|otp|2fa|ssn|social|licen[sc]e|passport|national_id'
                                        '|tax_id|card|cv[vcn]|account|iban|swift|bic|health|medical|patient|insurance'
                                        '|treatment|mac_?addr|imei|device_uuid|key|session|certificate|facial)'",
        plant: "alter table public.entries disable row level security",
        planted: "table public.entries",
    },
    // A policy that lets everybody write everything.
    Lint {
        number: "0024",
        offenders: "select 'pg_class'::regclass, p.polrelid from pg_policy p
                      join pg_class c on c.oid = p.polrelid and c.relrowsecurity,
                           lateral (select pg_get_expr(p.polqual, p.polrelid) as reads,
                                           pg_get_expr(p.polwithcheck, p.polrelid) as writes) e
                     where p.polpermissive and p.polcmd <> 'r'
                       and p.polroles && array[0, 'anon'::regrole, 'authenticated'::regrole]::oid[]
                       and (coalesce(e.writes, e.reads, 'true') ~ '^[( ]*(true|1 *= *1)[) ]*$'
                            or p.polcmd <> 'a' and coalesce(e.reads, 'true') ~ '^[( ]*(true|1 *= *1)[) ]*$')",
        plant: "alter policy user_roles_insert on busymate_stats.user_roles with check (1 = 1)",
        planted: "table busymate_stats.user_roles",
    },
    // Where pg_graphql is installed, its introspection shows the names of whatever anon may read.
    Lint {
        number: "0026",
        offenders: "select 'pg_class'::regclass, oid from pg_class
                     where relkind in ('r', 'p', 'v', 'm') and has_table_privilege('anon', oid, 'select')
                       and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'",
        plant: "grant select on busymate_stats.my_capabilities to anon",
        planted: "view busymate_stats.my_capabilities",
    },
    Lint {
        number: "0028",
        offenders: "select 'pg_proc'::regclass, oid from pg_proc
                     where prosecdef and has_function_privilege('anon', oid, 'execute')",
        plant: "grant execute on function busymate_stats.refresh_stats() to public",
        planted: "function busymate_stats.refresh_stats()",
    },
    Lint {
        number: "0029",
        offenders: "select 'pg_proc'::regclass, oid from pg_proc
                     where prosecdef and has_function_privilege('authenticated', oid, 'execute')",
        plant: "alter function public.get_stats() security definer",
        planted: "function public.get_stats()",
    },
];

impl Lint {
    /// The names of the offenders, ours or the others.
    fn find(&self, client: &mut Client, ours: bool) -> Vec<String> {
        let members = format!(
            "{MEMBERS} union select 'pg_extension'::regclass, oid from pg_extension where extname = 'busymate_stats'"
        );
        let sql = format!(
            "select distinct i.type || ' ' || i.identity
               from ({}) offender (classid, objid), pg_identify_object(classid, objid, 0) i
              where ((classid::oid, objid) in ({members})) = {ours} order by 1",
            self.offenders
        );
        let found = client.query(&sql, &[]).unwrap_or_else(|error| panic!("{}: {error:?}", self.number));
        found.iter().map(|row| row.get(0)).collect()
    }
}

fn as_on_supabase(prefix: &str) -> Client {
    let database = shared().create_database(prefix);
    let mut client = shared().connect(&database);
    client.batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    client
        .batch_execute(
            "create extension busymate_stats;
             select busymate_stats.create_fleet_tables();
             select busymate_stats.grant_api('authenticated');
             select busymate_stats.publish('supabase_realtime', create_missing => true);
             set search_path = pg_catalog",
        )
        .unwrap();
    client
}

#[test]
fn no_lint_finds_an_object_of_ours() {
    let mut client = as_on_supabase("clean");
    for lint in LINTS {
        assert_eq!(lint.find(&mut client, true), [""; 0], "lint {}", lint.number);
    }
}

#[test]
fn each_lint_finds_what_it_looks_for() {
    let mut client = as_on_supabase("planted");
    for lint in LINTS {
        let found = with_planted(&mut client, lint.plant, |client| {
            let mut found = lint.find(client, true);
            found.extend(lint.find(client, false));
            found
        });
        assert!(found.iter().any(|name| name == lint.planted), "lint {}: {found:?}", lint.number);
    }
}

/// The fleet's tables are the user's, and so are his default privileges, by which anon may read them: row-level
/// security shows him no row.
#[test]
fn of_the_fleets_tables_only_their_names_are_public() {
    let mut client = as_on_supabase("fleet");
    for lint in LINTS {
        let found = lint.find(&mut client, false);
        let expected: &[&str] = match lint.number {
            "0026" => &["table public.devices", "table public.entries"],
            _ => &[],
        };
        assert_eq!(found, expected, "lint {}", lint.number);
    }
}

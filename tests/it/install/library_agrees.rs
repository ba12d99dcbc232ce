//! Promise: script and library agree. Each C function that the install script declares is in the library with the same
//! arguments, result, volatility, parallel safety and strictness, and each one in the library is declared.

use harness::catalog::with_planted;
use harness::{installed, library};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol};
use pgrx_sql_entity_graph::metadata::{Returns, SqlMapping};
use pgrx_sql_entity_graph::{
    ExternArgs, PgExternEntity, PgExternReturnEntity, SqlGraphEntity, UsedTypeEntity, section,
};
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};

/// What PostgreSQL must know to call a C function rightly.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    name: String,
    /// Name and type of each.
    arguments: Vec<(String, String)>,
    result: String,
    volatility: char,
    parallel: char,
    /// Not told for a function without arguments: none of them can be null.
    strict: Option<bool>,
    /// Told where it is stated.
    security_definer: Option<bool>,
}

/// Functions that do without pgrx's wrapper, which knows nothing of them then: name and result.
const PLAIN: [(&str, &str); 4] = [
    ("capture_change", "trigger"),
    ("frozen_change", "trigger"),
    ("roster_change", "trigger"),
    ("note_empty_partitions", "event_trigger"),
];

/// The library's side: what pgrx wrote down of each function, by C symbol.
fn described(client: &mut Client) -> BTreeMap<String, Signature> {
    let bytes = std::fs::read(library()).unwrap();
    let elf = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
    let name = section::ELF_SECTION_NAME;
    let section_data =
        elf.section_by_name(name).unwrap_or_else(|| panic!("no section {name}")).data().unwrap();
    let mut functions = BTreeMap::new();
    for entity in section::decode_entities(section_data).unwrap() {
        let (symbol, signature) = match entity {
            SqlGraphEntity::Function(function) => {
                keep_from_cargo_pgrx(function.name, function.to_sql_config.enabled);
                (format!("{}_wrapper", function.unaliased_name), of_function(client, &function))
            }
            SqlGraphEntity::Trigger(trigger) => {
                keep_from_cargo_pgrx(trigger.function_name, trigger.to_sql_config.enabled);
                let name = trigger.function_name;
                (format!("{name}_wrapper"), without_arguments(name, "trigger"))
            }
            SqlGraphEntity::Schema(_) | SqlGraphEntity::CustomSql(_) => continue,
            other => panic!("the install script cannot be held against {other:?} yet"),
        };
        assert!(functions.insert(symbol.clone(), signature).is_none(), "two functions with symbol {symbol}");
    }
    for (name, result) in PLAIN {
        functions.insert(format!("{name}_wrapper"), without_arguments(name, result));
    }
    functions
}

/// cargo-pgrx, which writes an install script from the same section, would declare it beside the committed script.
fn keep_from_cargo_pgrx(name: &str, is_declared: bool) {
    assert!(!is_declared, "{name} is without `sql = false`");
}

fn without_arguments(name: &str, result: &str) -> Signature {
    Signature {
        name: name.into(),
        arguments: Vec::new(),
        result: result.into(),
        volatility: 'v',
        parallel: 'u',
        strict: None,
        security_definer: None,
    }
}

fn of_function(client: &mut Client, function: &PgExternEntity) -> Signature {
    let states = |wanted: &ExternArgs| function.extern_attrs.contains(wanted);
    let arguments: Vec<_> = function
        .fn_args
        .iter()
        .filter_map(|argument| match argument.used_ty.metadata.argument_sql.as_ref().unwrap() {
            SqlMapping::Skip => None,
            mapping => Some((argument.pattern.into(), type_name(client, mapping))),
        })
        .collect();
    // A null would be handed to code that has no place for it.
    let takes_no_null = !function.fn_args.iter().any(|argument| argument.used_ty.optional);
    Signature {
        name: function.name.into(),
        strict: (!arguments.is_empty()).then(|| states(&ExternArgs::Strict) || takes_no_null),
        arguments,
        result: result(client, &function.fn_return),
        volatility: match () {
            () if states(&ExternArgs::Immutable) => 'i',
            () if states(&ExternArgs::Stable) => 's',
            () => 'v',
        },
        parallel: match () {
            () if states(&ExternArgs::ParallelSafe) => 's',
            () if states(&ExternArgs::ParallelRestricted) => 'r',
            () => 'u',
        },
        security_definer: match () {
            () if states(&ExternArgs::SecurityDefiner) => Some(true),
            () if states(&ExternArgs::SecurityInvoker) => Some(false),
            () => None,
        },
    }
}

/// In the words of `pg_get_function_result`.
fn result(client: &mut Client, returned: &PgExternReturnEntity) -> String {
    match returned {
        PgExternReturnEntity::None => "void".into(),
        PgExternReturnEntity::Trigger => "trigger".into(),
        PgExternReturnEntity::Type { ty } => one(client, ty),
        PgExternReturnEntity::SetOf { ty } => format!("SETOF {}", one(client, ty)),
        PgExternReturnEntity::Iterated { tys } => {
            let columns: Vec<_> = tys
                .iter()
                .map(|column| format!("{} {}", column.name.unwrap_or_default(), one(client, &column.ty)))
                .collect();
            format!("TABLE({})", columns.join(", "))
        }
    }
}

fn one(client: &mut Client, used: &UsedTypeEntity) -> String {
    match used.metadata.return_sql.as_ref().unwrap() {
        Returns::One(mapping) | Returns::SetOf(mapping) => type_name(client, mapping),
        Returns::Table(_) => panic!("a table inside a result: {used:?}"),
    }
}

/// The server's own name of a type.
fn type_name(client: &mut Client, mapping: &SqlMapping) -> String {
    let SqlMapping::As(name) = mapping else { panic!("no name for {mapping:?} yet") };
    let known: Option<String> =
        client.query_one("select format_type(to_regtype($1), null)", &[name]).unwrap().get(0);
    known.filter(|known| known != "-").unwrap_or_else(|| panic!("the server knows no type {name}"))
}

/// The script's side: what is installed, by C symbol.
fn declared(client: &mut Client) -> Vec<(String, Signature)> {
    let rows = client
        .query(
            "select p.prosrc, p.proname::text, coalesce(p.proargnames[1:p.pronargs], '{}'),
                    array(select format_type(t.oid, null) from unnest(p.proargtypes) with ordinality t (oid, n)
                           order by n),
                    pg_get_function_result(p.oid), p.provolatile, p.proparallel, p.proisstrict, p.prosecdef
               from pg_proc p join pg_language l on l.oid = p.prolang
               join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
               join pg_extension e on e.oid = d.refobjid and e.extname = 'busymate_stats'
              where l.lanname = 'c' order by 1, 2",
            &[],
        )
        .unwrap();
    rows.iter()
        .map(|row| {
            let mut names: Vec<String> = row.get(2);
            let types: Vec<String> = row.get(3);
            if names.is_empty() && types.len() == 1 {
                // The one argument of a function that PostgREST hands the whole body has no name in SQL.
                names.push("message".into());
            }
            assert_eq!(names.len(), types.len(), "an argument without a name");
            let letter = |column| char::from(row.get::<_, i8>(column) as u8);
            let signature = Signature {
                name: row.get(1),
                strict: (!types.is_empty()).then(|| row.get(7)),
                arguments: names.into_iter().zip(types).collect(),
                result: row.get(4),
                volatility: letter(5),
                parallel: letter(6),
                security_definer: Some(row.get(8)),
            };
            (row.get(0), signature)
        })
        .collect()
}

/// The symbols of SQL functions that the dynamic linker can find: each has a `pg_finfo_` beside it.
fn exported() -> BTreeSet<String> {
    let bytes = std::fs::read(library()).unwrap();
    let elf = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
    let symbols: BTreeSet<&str> = elf
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .map(|symbol| symbol.name().unwrap())
        .collect();
    symbols
        .iter()
        .filter_map(|symbol| symbol.strip_prefix("pg_finfo_"))
        .inspect(|symbol| assert!(symbols.contains(symbol), "{symbol} is described but not exported"))
        .map(str::to_owned)
        .collect()
}

/// What SQL calls, and the function behind it that it falls back on: pgrx describes the latter alone.
const IN_FRONT: (&str, &str) = ("remembered_answer", "has_capability_wrapper");

/// Everything in which the installed extension and the library differ.
fn differences(client: &mut Client) -> Vec<String> {
    let (mut described, declared, mut exported) = (described(client), declared(client), exported());
    let (front, behind) = IN_FRONT;
    if let Some(signature) = described.remove(behind) {
        described.insert(front.into(), signature);
    }
    exported.remove(behind);
    let mut found = Vec::new();
    for (symbol, script) in &declared {
        if !exported.contains(symbol) {
            found.push(format!("{symbol} is declared, but the library does not export it"));
        }
        match described.get(symbol) {
            None => found.push(format!("{symbol} is declared, but pgrx does not describe it")),
            Some(library) => {
                let mut script = script.clone();
                if library.security_definer.is_none() {
                    script.security_definer = None;
                }
                if *library != script {
                    found.push(format!("{symbol}: the script has {script:?}, the library {library:?}"));
                }
            }
        }
    }
    let in_script: BTreeSet<&String> = declared.iter().map(|(symbol, _)| symbol).collect();
    for symbol in described.keys().chain(&exported).collect::<BTreeSet<_>>() {
        if !in_script.contains(symbol) {
            found.push(format!("{symbol} is in the library, but the script does not declare it"));
        }
    }
    found
}

#[test]
fn script_and_library_agree() {
    let (_, mut client) = installed("agree");
    assert!(declared(&mut client).len() > 10, "nothing was compared");
    assert_eq!(differences(&mut client), [""; 0]);
}

/// Holds a wrong declaration of `symbol` against the library.
fn planted(client: &mut Client, declaration: &str, symbol: &str) -> Vec<String> {
    with_planted(
        client,
        &format!(
            "create function busymate_stats.{declaration} as '$libdir/busymate_stats', '{symbol}' language c;
             alter extension busymate_stats add function busymate_stats.{}",
            declaration.split(" returns").next().unwrap()
        ),
        differences,
    )
}

#[test]
fn a_script_that_differs_is_found_out() {
    let (_, mut client) = installed("differ");
    let wrong = [
        ("version(x int) returns text immutable parallel safe", "version_wrapper"),
        ("stats_at(as_of timestamp) returns jsonb stable parallel restricted", "stats_at_wrapper"),
        ("stats_at(moment timestamptz, x int) returns jsonb stable parallel restricted", "stats_at_wrapper"),
        ("get_stats() returns json stable parallel restricted", "get_stats_wrapper"),
        ("get_stats() returns jsonb parallel restricted", "get_stats_wrapper"),
        ("get_stats() returns jsonb stable", "get_stats_wrapper"),
        ("get_stats() returns setof jsonb stable parallel restricted", "get_stats_wrapper"),
        (
            "has_capability(section text, action text) returns bool stable parallel safe strict",
            "remembered_answer",
        ),
        ("has_capability(action text, section text) returns bool stable parallel safe", "remembered_answer"),
    ];
    for (declaration, symbol) in wrong {
        let found = planted(&mut client, declaration, symbol);
        assert_eq!(found.len(), 1, "{declaration}: {found:?}");
        assert!(found[0].starts_with(&format!("{symbol}: the script has ")), "{found:?}");
    }
    let elsewhere = with_planted(
        &mut client,
        "update pg_proc set prosrc = 'nowhere_wrapper' where oid = 'busymate_stats.version()'::regprocedure",
        differences,
    );
    assert_eq!(
        elsewhere,
        [
            "nowhere_wrapper is declared, but the library does not export it",
            "nowhere_wrapper is declared, but pgrx does not describe it",
            "version_wrapper is in the library, but the script does not declare it",
        ]
    );
    let lost = with_planted(
        &mut client,
        "alter extension busymate_stats drop function busymate_stats.version()",
        differences,
    );
    assert_eq!(lost, ["version_wrapper is in the library, but the script does not declare it"]);
}

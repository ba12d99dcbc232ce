//! Promise: a script that people have run is never edited, and from each release a script leads to this version.

use harness::{CHECKOUT, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const NAME: &str = "busymate_stats--";

fn sha256(file: &Path) -> String {
    run(Command::new("sha256sum").arg(file)).split(' ').next().unwrap().into()
}

/// The versions that a script's name has: one for an install script, two for an upgrade.
fn versions(script: &str) -> Vec<&str> {
    script.trim_start_matches(NAME).trim_end_matches(".sql").split("--").collect()
}

/// What is wrong with a directory of scripts, when `version` is the one that is being worked on.
fn complaints(directory: &Path, version: &str) -> Vec<String> {
    let mut found = Vec::new();
    let list = fs::read_to_string(directory.join("released.sha256")).unwrap();
    let released: Vec<(&str, &str)> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once("  ").unwrap_or_else(|| panic!("released.sha256: {line}")))
        .collect();
    for (sum, script) in &released {
        let file = directory.join(script);
        if !file.exists() {
            found.push(format!("{script} was released and is gone"));
        } else if sha256(&file) != *sum {
            found.push(format!("{script} was released and has been edited: raise the version"));
        }
    }

    let files =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let scripts: BTreeSet<_> =
        files.filter(|name| name.starts_with(NAME) && name.ends_with(".sql")).collect();
    for script in &scripts {
        let is_released = released.iter().any(|(_, listed)| listed == script);
        if !is_released && versions(script).last() != Some(&version) {
            found.push(format!("{script} is neither released nor of version {version}"));
        }
    }

    for from in released.iter().map(|(_, script)| versions(script)).filter(|versions| versions.len() == 1) {
        let mut reached = BTreeSet::from([from[0]]);
        for _ in &scripts {
            let steps = scripts.iter().map(|script| versions(script)).filter(|versions| versions.len() == 2);
            reached.extend(
                steps.filter(|step| reached.contains(step[0])).map(|step| step[1]).collect::<Vec<_>>(),
            );
        }
        if !reached.contains(version) {
            found.push(format!("no script leads from {} to {version}", from[0]));
        }
    }
    found
}

#[test]
fn released_scripts_are_as_they_were_and_lead_here() {
    let control = fs::read_to_string(Path::new(CHECKOUT).join("busymate_stats.control")).unwrap();
    let version = control.split("default_version = '").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(complaints(&Path::new(CHECKOUT).join("sql"), version), [""; 0]);
}

/// The same with a release that never was, so that the rule has been seen to hold before the first one.
#[test]
fn a_release_is_held_to_its_scripts() {
    let directory = std::env::temp_dir().join(format!("busymate-released-{}", std::process::id()));
    let sql = directory.join("sql");
    fs::create_dir_all(directory.join("scripts")).unwrap();
    fs::create_dir_all(&sql).unwrap();
    let release = |version: &str| {
        fs::write(directory.join("busymate_stats.control"), format!("default_version = '{version}'\n"))
            .unwrap();
        run(Command::new("sh").arg(directory.join("scripts/release-sql")))
    };
    let write =
        |steps: &str, script: &str| fs::write(sql.join(format!("{NAME}{steps}.sql")), script).unwrap();
    fs::copy(Path::new(CHECKOUT).join("scripts/release-sql"), directory.join("scripts/release-sql")).unwrap();
    fs::write(sql.join("released.sha256"), "# None yet.\n").unwrap();

    write("1.0.0", "select 1;\n");
    assert_eq!(complaints(&sql, "1.0.0"), [""; 0]);
    assert!(release("1.0.0").contains("busymate_stats--1.0.0.sql is released"));
    assert_eq!(release("1.0.0"), "", "once is enough");
    assert_eq!(complaints(&sql, "1.0.0"), [""; 0]);

    write("1.0.0", "select 2;\n");
    let edited = "busymate_stats--1.0.0.sql was released and has been edited: raise the version";
    assert_eq!(complaints(&sql, "1.0.0"), [edited]);
    fs::remove_file(sql.join("busymate_stats--1.0.0.sql")).unwrap();
    assert_eq!(complaints(&sql, "1.0.0"), ["busymate_stats--1.0.0.sql was released and is gone"]);
    write("1.0.0", "select 1;\n");

    write("1.1.0", "select 2;\n");
    assert_eq!(complaints(&sql, "1.1.0"), ["no script leads from 1.0.0 to 1.1.0"]);
    write("1.0.0--1.1.0", "select 2;\n");
    assert_eq!(complaints(&sql, "1.1.0"), [""; 0]);
    assert_eq!(release("1.1.0").lines().count(), 2, "the install script and the upgrade");

    write("1.2.0", "select 3;\n");
    write("1.1.0--1.2.0", "select 3;\n");
    assert_eq!(complaints(&sql, "1.2.0"), [""; 0], "by way of 1.1.0");
    write("1.0.0--1.1.0", "select 4;\n");
    assert_eq!(
        complaints(&sql, "1.2.0"),
        ["busymate_stats--1.0.0--1.1.0.sql was released and has been edited: raise the version"]
    );
    write("1.0.0--1.1.0", "select 2;\n");
    write("0.9.0--1.0.0", "select 1;\n");
    assert_eq!(
        complaints(&sql, "1.2.0"),
        ["busymate_stats--0.9.0--1.0.0.sql is neither released nor of version 1.2.0"]
    );
    fs::remove_dir_all(directory).unwrap();
}

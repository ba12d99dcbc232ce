//! Promise: whatever names the version names the same one, and what docs/install.md shows is run by a script or is made of
//! files that are there.

use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(harness::CHECKOUT)
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The value of `key = value` in the first section of a TOML file, or in a control file.
fn setting(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.split('=').next().unwrap().trim() == key);
    let value = line.unwrap_or_else(|| panic!("{path} has no {key}")).split_once('=').unwrap().1;
    value.trim().trim_matches(['\'', '"']).to_owned()
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = setting("busymate_stats.control", "default_version");
    assert_eq!(setting("Cargo.toml", "version"), version);
    let meta: Value = serde_json::from_str(&read("META.json")).unwrap();
    assert_eq!(meta["version"], version);
    assert_eq!(meta["provides"]["busymate_stats"]["version"], version);
    assert_eq!(meta["provides"]["busymate_stats"]["file"], format!("sql/busymate_stats--{version}.sql"));
    let changelog = read("debian/changelog");
    assert!(changelog.starts_with(&format!("busymate-stats ({version}-")), "debian/changelog: {changelog}");
}

/// The rules of PGXN's META specification 1.0.0 that a distribution of one extension can break.
#[test]
fn meta_json_is_what_pgxn_takes() {
    let meta: Value = serde_json::from_str(&read("META.json")).unwrap();
    let text = |value: &Value| value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned);
    for key in ["name", "version", "abstract", "maintainer", "license"] {
        assert!(text(&meta[key]).is_some(), "{key} is missing");
    }
    assert!(!text(&meta["name"]).unwrap().contains([' ', '/', '\\']));
    assert_eq!(meta["license"], "mit");
    assert_eq!(meta["meta-spec"]["version"], "1.0.0");
    assert!(["stable", "testing", "unstable"].contains(&meta["release_status"].as_str().unwrap()));
    let is_semver = |text: &str| text.split('.').map(|part| part.parse::<u32>().is_ok()).eq([true; 3]);
    for (name, extension) in meta["provides"].as_object().unwrap() {
        assert!(is_semver(&text(&extension["version"]).unwrap()), "{name}");
        for key in ["file", "docfile"] {
            let file = text(&extension[key]).unwrap();
            assert!(root().join(&file).is_file(), "{name}: no {key} {file}");
        }
    }
    for (phase, relations) in meta["prereqs"].as_object().unwrap() {
        assert!(["configure", "build", "test", "runtime", "develop"].contains(&phase.as_str()), "{phase}");
        for (relation, packages) in relations.as_object().unwrap() {
            assert!(
                ["requires", "recommends", "suggests", "conflicts"].contains(&relation.as_str()),
                "{relation}"
            );
            for (package, version) in packages.as_object().unwrap() {
                let plain = version.as_str().is_some_and(is_semver) || version.as_i64() == Some(0);
                assert!(plain, "{package}: {version}");
            }
        }
    }
    let known: HashSet<_> = [
        "name",
        "version",
        "abstract",
        "description",
        "maintainer",
        "license",
        "release_status",
        "provides",
        "prereqs",
        "tags",
        "generated_by",
        "meta-spec",
        "resources",
        "no_index",
    ]
    .into();
    for key in meta.as_object().unwrap().keys() {
        assert!(known.contains(key.as_str()) || key.starts_with("x_"), "{key} is not in the specification");
    }
}

/// The fenced blocks of docs/install.md: what stands behind the fence, and the text.
fn blocks() -> Vec<(String, String)> {
    let document = read("docs/install.md");
    let parts: Vec<_> = document.split("\n```").skip(1).collect();
    parts
        .chunks(2)
        .map(|block| {
            let (fence, text) = block[0].split_once('\n').unwrap();
            (fence.to_owned(), text.to_owned())
        })
        .collect()
}

#[test]
fn install_md_shows_what_is_run() {
    let script = read("scripts/test-deb");
    let (mut packages, mut images) = (0, 0);
    for (fence, text) in blocks() {
        if let Some(image) = fence.strip_prefix("sh docker-") {
            assert!(read("scripts/test-docker").contains(image), "nothing runs {image}");
            let file = text.split(" -f ").nth(1).unwrap().split(' ').next().unwrap();
            let dockerfile = read(file);
            for argument in text.split("--build-arg ").skip(1) {
                let name = argument.split('=').next().unwrap();
                assert!(dockerfile.contains(&format!("ARG {name}=")), "{file} has no ARG {name}");
            }
            images += 1;
        } else {
            let name = fence.strip_prefix("sh ").unwrap_or(&fence);
            let is_run = script.lines().any(|line| {
                let line = line.trim();
                line == format!("run {name}") || line.starts_with(&format!("block '{name}' "))
            });
            assert!(is_run, "scripts/test-deb does not run {fence}");
            packages += 1;
        }
    }
    assert!(packages >= 6 && images == 2, "{packages} {images}");
}

#[test]
fn workflows_name_actions_by_commit() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join(".github/workflows")).unwrap() {
        let path = entry.unwrap().path();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some((_, action)) = line.split_once("uses: ") {
                let commit = action.split('@').nth(1).unwrap().split(' ').next().unwrap();
                assert!(
                    commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()),
                    "{action}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 0);
}

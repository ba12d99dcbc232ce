//! Every link in README and the other documents leads somewhere: the file is there, and the heading in it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The Markdown files of the project: at its root, in `docs` and in `examples`.
fn documents() -> Vec<PathBuf> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let root = Path::new(harness::CHECKOUT);
    let mut found: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    for directory in ["docs", "examples"] {
        collect(&root.join(directory), &mut found);
    }
    found
}

/// The lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What GitHub makes of a heading: lower case, letters, digits, `_` and `-` kept, blanks as `-`.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "_- ".contains(c);
    heading.trim().to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-")
}

/// The anchors of a document. Of equal headings the second has `-1` behind it, and so on.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let anchor = anchor(line.trim_start_matches('#'));
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

/// Where the links of a document lead: `[…](target)`, code left out.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let without_code: String =
            line.split('`').enumerate().map(|(place, part)| if place % 2 == 0 { part } else { "" }).collect();
        for rest in without_code.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            found.push(target.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    found
}

/// Why a link of `document` is dead.
fn problem(document: &Path, target: &str) -> Option<String> {
    if ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
        return None;
    }
    let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => document.to_owned(),
        file => document.parent().unwrap().join(file),
    };
    if !path.exists() {
        return Some(format!("there is no {file}"));
    }
    let dead =
        !wanted.is_empty() && !anchors(&fs::read_to_string(&path).unwrap()).contains(&wanted.to_owned());
    dead.then(|| format!("there is no heading for #{wanted}"))
}

#[test]
fn every_link_leads_somewhere() {
    let (mut dead, mut count) = (Vec::new(), 0);
    for document in documents() {
        for target in links(&fs::read_to_string(&document).unwrap()) {
            count += 1;
            dead.extend(
                problem(&document, &target).map(|problem| format!("{}: {problem}", document.display())),
            );
        }
    }
    assert_eq!(dead, [""; 0]);
    assert!(count > 10, "only {count} links were found");
}

#[test]
fn a_dead_link_is_found() {
    let text = "# One: `a_b`, two\n## Same\n## Same\n```\n# no heading [x](no-link)\n```\nSee [a](b.md#c), `[no](code)` [d](#e \"f\").\n";
    assert_eq!(anchors(text), ["one-a_b-two", "same", "same-1"]);
    assert_eq!(links(text), ["b.md#c", "#e"]);
    let readme = Path::new(harness::CHECKOUT).join("README.md");
    assert_eq!(problem(&readme, "#install"), None);
    assert_eq!(problem(&readme, "docs/mcp.md#who-may-call"), None);
    assert_eq!(problem(&readme, "https://example.com/#x"), None);
    for dead in ["#nowhere", "docs/nothing.md", "docs/mcp.md#nowhere"] {
        assert!(problem(&readme, dead).is_some(), "{dead}");
    }
}

//! What a caller holds. Pure.

use std::borrow::Cow;

/// The wildcard: as a granted section or action it matches every one.
const ANY: &[u8] = b"*";

/// One granted capability, and the role it comes through. Text of a SQL_ASCII database may be any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// A section, or `*`.
    pub section: Vec<u8>,
    /// An action, or `*`.
    pub action: Vec<u8>,
    /// The role that has it; `None` for a superuser or a BYPASSRLS role, which needs none.
    pub via_role: Option<String>,
}

impl Grant {
    fn covers(&self, section: &[u8], action: &[u8]) -> bool {
        (self.section == ANY || self.section == section) && (self.action == ANY || self.action == action)
    }
}

/// Everything that one caller holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// The grants of a user with some roles.
    pub fn new(grants: Vec<Grant>) -> Self {
        Self(grants)
    }

    /// The grants of a superuser or a BYPASSRLS role.
    pub fn everything() -> Self {
        Self(vec![Grant { section: ANY.into(), action: ANY.into(), via_role: None }])
    }

    /// Whether these grants include `section:action`, matched literally and case-sensitively. Asked for `*`, only a
    /// granted `*` will do.
    pub fn hold(&self, section: impl AsRef<[u8]>, action: impl AsRef<[u8]>) -> bool {
        self.0.iter().any(|grant| grant.covers(section.as_ref(), action.as_ref()))
    }

    /// The first of `wanted` that these grants do not include.
    pub fn first_lacking<'a>(&self, wanted: &'a Grants) -> Option<&'a Grant> {
        wanted.0.iter().find(|grant| !self.hold(&grant.section, &grant.action))
    }

    /// `[{"section": …, "action": …, "via_role": …}, …]`
    pub fn to_json(&self) -> String {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|grant| {
                serde_json::json!({
                    "section": lossy(&grant.section), "action": lossy(&grant.action), "via_role": grant.via_role,
                })
            })
            .collect();
        serde_json::Value::Array(rows).to_string()
    }
}

/// As text, to be shown.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Grant, Grants};

    fn grants(list: &[(&str, &str)]) -> Grants {
        Grants::new(
            list.iter()
                .map(|(section, action)| Grant {
                    section: (*section).into(),
                    action: (*action).into(),
                    via_role: Some("r".into()),
                })
                .collect(),
        )
    }

    #[test]
    fn wildcards_match_on_the_granted_side_only() {
        let viewer = grants(&[("*", "view"), ("tokens", "*")]);
        assert!(viewer.hold("stats", "view"));
        assert!(viewer.hold("*", "view"));
        assert!(viewer.hold("tokens", "edit"));
        assert!(!viewer.hold("stats", "edit"));
        assert!(!viewer.hold("*", "*"));
        assert!(!viewer.hold("stats", "*"));
        assert!(!viewer.hold("Stats", "View"));
        assert!(!grants(&[("stats", "view")]).hold("*", "view"));
        assert!(!Grants::default().hold("", ""));
        assert!(Grants::everything().hold("anything", "at all"));
    }

    #[test]
    fn what_is_lacking() {
        let mine = grants(&[("stats", "*")]);
        assert_eq!(mine.first_lacking(&grants(&[("stats", "view"), ("stats", "*")])), None);
        let wanted = grants(&[("stats", "view"), ("*", "view")]);
        assert_eq!(mine.first_lacking(&wanted).map(|grant| grant.section.as_slice()), Some(&b"*"[..]));
        assert_eq!(Grants::everything().first_lacking(&grants(&[("*", "*")])), None);
    }
}

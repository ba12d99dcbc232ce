//! What a token's claims say. Pure: text in; user, token and roles out.

use super::role_claim::RoleClaim;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt;

/// A token that names more roles than this names none: each of them is looked up.
const MOST_ROLES: usize = 100;

/// The claims that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The user.
    pub sub: Option<String>,
    /// The token.
    pub jti: Option<String>,
    /// The roles that the token names itself.
    pub roles: BTreeSet<String>,
}

/// What `claims`, the text of a JSON object, say; `role_claim` tells where they name roles, if they may.
///
/// `None` for what cannot be read, or in two ways: no JSON, no object, a claim that matters given twice, a `sub` that is
/// empty or no string, a `jti` that is no string.
pub fn read(claims: &[u8], role_claim: Option<&RoleClaim>) -> Option<Claims> {
    let path = role_claim.map_or(&[][..], RoleClaim::keys);
    let head = path.first().map_or("sub", String::as_str);
    let [sub, jti, named] = members(claims, ["sub", "jti", head])?;
    let sub: Option<String> = sub.map(text).transpose().ok()?;
    if sub.as_deref() == Some("") {
        return None;
    }
    let jti = jti.map(text::<Option<String>>).transpose().ok()?.flatten();
    let roles = match named {
        Some(named) if !path.is_empty() => roles(named, &path[1..])?,
        _ => BTreeSet::new(),
    };
    Some(Claims { sub, jti, roles })
}

/// The roles that stand at the end of `path` inside `value`; none where it leads nowhere, or to anything but a string or
/// an array of strings. `None` where it leads to two places.
fn roles(value: &RawValue, path: &[String]) -> Option<BTreeSet<String>> {
    if let Some((key, rest)) = path.split_first() {
        if !value.get().starts_with('{') {
            return Some(BTreeSet::new());
        }
        return match members(value.get().as_bytes(), [key])? {
            [Some(inside)] => roles(inside, rest),
            [None] => Some(BTreeSet::new()),
        };
    }
    let named = match text::<String>(value) {
        Ok(role) => [role].into(),
        Err(_) => text::<BTreeSet<String>>(value).unwrap_or_default(),
    };
    Some(if named.len() > MOST_ROLES { BTreeSet::new() } else { named })
}

fn text<'a, T: Deserialize<'a>>(value: &'a RawValue) -> serde_json::Result<T> {
    serde_json::from_str(value.get())
}

/// The members of the JSON object `object` with these keys. `None` when it is none, or has one of them twice.
fn members<'a, const N: usize>(object: &'a [u8], keys: [&str; N]) -> Option<[Option<&'a RawValue>; N]> {
    let mut reader = serde_json::Deserializer::from_slice(object);
    let members = reader.deserialize_map(Members(keys)).ok()?;
    reader.end().ok()?;
    Some(members)
}

struct Members<'k, const N: usize>([&'k str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object that has no key twice")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut members = [None; N];
        while let Some(key) = object.next_key::<String>()? {
            if !self.0.contains(&key.as_str()) {
                object.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = object.next_value()?;
            for (wanted, member) in self.0.iter().zip(&mut members) {
                if *wanted == key && member.replace(value).is_some() {
                    return Err(A::Error::custom("a key twice"));
                }
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_ROLES, read};
    use crate::access::role_claim::RoleClaim;
    use proptest::prelude::*;

    fn subject(claims: &[u8]) -> Option<String> {
        read(claims, None)?.sub
    }

    /// The roles named at `path`; `None` when the whole token is refused.
    fn roles(path: &str, claims: &str) -> Option<String> {
        let role_claim = RoleClaim::parse(path).unwrap();
        let named = read(claims.as_bytes(), role_claim.as_ref())?.roles;
        Some(named.into_iter().collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_subject_of_a_token() {
        let claims = br#"{"exp":1795462656,"role":"authenticated","sub":"u1","app":{"sub":"u2"}}"#;
        assert_eq!(subject(claims).as_deref(), Some("u1"));
        assert_eq!(subject(br#" {"sub":"\u00fc"}"#).as_deref(), Some("ü"));
    }

    #[test]
    fn nobody() {
        let deep = format!(r#"{{"sub":"u1","x":{}"#, "[".repeat(100_000));
        for claims in [
            "",
            " ",
            "null",
            "true",
            "7",
            "\"u1\"",
            "[]",
            r#"["u1"]"#,
            r#"[{"sub":"u1"}]"#,
            "{}",
            r#"{"sub":null}"#,
            r#"{"sub":7}"#,
            r#"{"sub":["u1"]}"#,
            r#"{"sub":""}"#,
            r#"{"sub":"u1","sub":"u2"}"#,
            r#"{"sub":"u1""#,
            r#"{"sub":"u1"} x"#,
            r#"{"SUB":"u1"}"#,
            &deep,
        ] {
            assert_eq!(subject(claims.as_bytes()), None, "{claims:.60}");
        }
        assert_eq!(subject(b"{\"sub\":\"\xff\"}"), None);
    }

    #[test]
    fn roles_that_the_token_names() {
        for (path, claims, named) in [
            ("user_role", r#"{"user_role":"a"}"#, Some("a")),
            ("user_role", r#"{"sub":"u","user_role":["b","a","b"]}"#, Some("a b")),
            ("user_role", r#"{"USER_ROLE":"a","role":"a"}"#, Some("")),
            ("user\u{5f}role", r#"{"user\u005frole":"a"}"#, Some("a")),
            ("app_metadata.role", r#"{"app_metadata":{"role":"a"},"role":"b"}"#, Some("a")),
            ("app_metadata.role", r#"{"app_metadata.role":"a"}"#, Some("")),
            (r#""app_metadata.role""#, r#"{"app_metadata.role":"a"}"#, Some("a")),
            ("a.b.c", r#"{"a":{"b":{"c":["x","y"]}}}"#, Some("x y")),
            ("a.b", r#"{"a":["b"]}"#, Some("")),
            ("a.b", r#"{"a":"{\"b\":\"x\"}"}"#, Some("")),
            ("r", r#"{"r":["a",7]}"#, Some("")),
            ("r", r#"{"r":[["a"]]}"#, Some("")),
            ("r", r#"{"r":7}"#, Some("")),
            ("r", r#"{"r":null}"#, Some("")),
            ("r", r#"{"r":1e999999}"#, Some("")),
            ("r", r#"{"r":{"r":"a"}}"#, Some("")),
            ("sub", r#"{"sub":"a"}"#, Some("a")),
            // Two answers are none.
            ("r", r#"{"r":"a","r":"a"}"#, None),
            ("a.b", r#"{"a":{"b":"x"},"a":{}}"#, None),
            ("a.b", r#"{"a":{"b":"x","b":"y"}}"#, None),
            ("r", r#"{"sub":"u","sub":"u","r":"a"}"#, None),
            ("r", r#"{"sub":7,"r":"a"}"#, None),
            ("r", r#"{"sub":"","r":"a"}"#, None),
            ("", r#"{"":"a"}"#, Some("")),
        ] {
            assert_eq!(roles(path, claims).as_deref(), named, "{path}: {claims}");
        }
        let many = |count: usize| {
            let names: Vec<_> = (0..count).map(|number| number.to_string()).collect();
            roles("r", &serde_json::json!({ "r": names }).to_string()).unwrap()
        };
        assert_eq!(many(MOST_ROLES).split(' ').count(), MOST_ROLES);
        assert_eq!(many(MOST_ROLES + 1), "");
    }

    #[test]
    fn the_token() {
        let jti = |claims: &str| read(claims.as_bytes(), None).map(|claims| claims.jti);
        assert_eq!(jti(r#"{"sub":"u","jti":"t"}"#), Some(Some("t".into())));
        assert_eq!(jti(r#"{"sub":"u","x":{"jti":"t"}}"#), Some(None));
        assert_eq!(jti(r#"{"sub":"u","jti":null}"#), Some(None));
        for refused in [r#"{"sub":"u","jti":7}"#, r#"{"sub":"u","jti":["t"]}"#, r#"{"jti":"t","jti":"t"}"#] {
            assert_eq!(jti(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_megabyte_of_claims() {
        let claims = format!(r#"{{"padding":"{}","sub":"u1"}}"#, "x".repeat(1 << 20));
        assert_eq!(subject(claims.as_bytes()).as_deref(), Some("u1"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            subject(&bytes);
        }

        #[test]
        fn any_object_gives_an_answer(claims in r#"\{("(sub|jti|r)":("a"|\["a"\]|\{"r":1\}|7|null|"\\u0000")?,?){0,4}\}"#) {
            for path in ["", "r", "r.r", "sub", "jti"] {
                read(claims.as_bytes(), RoleClaim::parse(path).unwrap().as_ref());
            }
        }

        #[test]
        fn any_subject_comes_back(sub in ".+") {
            let claims = serde_json::json!({ "sub": sub }).to_string();
            prop_assert_eq!(subject(claims.as_bytes()), Some(sub));
        }
    }
}

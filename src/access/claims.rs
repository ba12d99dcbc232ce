//! What a token's claims say. Pure: text in, user out.

use serde::Deserialize;

/// The claims that matter here; the others are passed over, but must be JSON.
#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// The user that `claims`, the text of a JSON object, name by `sub`.
///
/// `None` for whatever does not name exactly one: no JSON, no object, `sub` missing, empty, twice, or no string.
pub fn subject(claims: &[u8]) -> Option<String> {
    // An array would be taken for the struct's fields in their order.
    if claims.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return None;
    }
    let claims: Claims = serde_json::from_slice(claims).ok()?;
    (!claims.sub.is_empty()).then_some(claims.sub)
}

#[cfg(test)]
mod tests {
    use super::subject;
    use proptest::prelude::*;

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
        fn any_subject_comes_back(sub in ".+") {
            let claims = serde_json::json!({ "sub": sub }).to_string();
            prop_assert_eq!(subject(claims.as_bytes()), Some(sub));
        }
    }
}

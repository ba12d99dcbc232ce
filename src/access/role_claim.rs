//! Where a token names roles: a path of keys into its claims. Pure.

/// Deep enough for any issuer; each key is another pass over what lies inside.
const MOST_KEYS: usize = 8;

/// What users write themselves, by Supabase's API.
const WRITTEN_BY_USERS: &str = "user_metadata";

/// A path such as `user_role` or `app_metadata.role`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleClaim(Vec<String>);

impl RoleClaim {
    /// Reads keys apart by dots; a key in double quotes may have dots itself. Empty for no path at all, and an error is
    /// what to do instead.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let keys = keys(text).ok_or_else(|| {
            "Write keys apart by dots, such as user_role or app_metadata.role; a key with dots in double quotes."
                .to_owned()
        })?;
        if keys.len() > MOST_KEYS {
            return Err(format!("A path has at most {MOST_KEYS} keys."));
        }
        if keys.iter().any(|key| key.eq_ignore_ascii_case(WRITTEN_BY_USERS)) {
            return Err(format!(
                "Users write {WRITTEN_BY_USERS} themselves, and could give themselves any role; use app_metadata."
            ));
        }
        Ok(Some(Self(keys)))
    }

    /// The keys, outermost first; at least one.
    pub fn keys(&self) -> &[String] {
        &self.0
    }
}

fn keys(text: &str) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    let mut rest = text;
    loop {
        let (key, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if key.is_empty() || key.contains('"') {
            return None;
        }
        keys.push(key.to_owned());
        if behind.is_empty() {
            return Some(keys);
        }
        rest = behind.strip_prefix('.')?;
    }
}

#[cfg(test)]
mod tests {
    use super::RoleClaim;

    #[test]
    fn paths() {
        for (text, keys) in [
            ("user_role", &["user_role"][..]),
            (" app_metadata.role ", &["app_metadata", "role"]),
            (r#""https://app.example/roles""#, &["https://app.example/roles"]),
            (r#"a."b.c".d"#, &["a", "b.c", "d"]),
            ("user_metadata_role", &["user_metadata_role"]),
        ] {
            let path = RoleClaim::parse(text).unwrap().unwrap();
            assert_eq!(path.keys(), keys, "{text}");
        }
        assert_eq!(RoleClaim::parse(""), Ok(None));
        assert_eq!(RoleClaim::parse("  "), Ok(None));
    }

    #[test]
    fn what_is_refused() {
        for text in [".", "a.", ".a", "a..b", "\"", "\"a", "\"\"", "a.\"b\"c", "a\"b\"", "a.b.c.d.e.f.g.h.i"]
        {
            assert!(RoleClaim::parse(text).is_err(), "{text}");
        }
        for text in [
            "user_metadata",
            "user_metadata.role",
            "\"user_metadata\".role",
            "a.user_metadata.b",
            "USER_METADATA.role",
        ] {
            assert!(RoleClaim::parse(text).unwrap_err().contains("app_metadata"), "{text}");
        }
    }
}

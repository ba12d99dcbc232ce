//! Which login roles' sessions may carry claims. Pure.

/// The roles, as `pg_authid` has their names; none for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedLogins(Vec<String>);

impl TrustedLogins {
    /// Reads identifiers apart by commas: lower-cased, unless in double quotes. An error is the text from which on it
    /// cannot be read.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut names = Vec::new();
        let mut rest = list.trim_start();
        while !rest.is_empty() {
            let (name, behind) = identifier(rest).ok_or(rest)?;
            names.push(name);
            let behind = behind.trim_start();
            rest = match behind.strip_prefix(',').map(str::trim_start) {
                Some(next) if !next.is_empty() => next,
                None if behind.is_empty() => "",
                _ => return Err(rest.into()),
            };
        }
        Ok(Self(names))
    }

    /// Whether nobody is named, so that every session may carry claims.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `login` is named.
    pub fn name(&self, login: &str) -> bool {
        self.0.iter().any(|name| name == login)
    }
}

/// The identifier that `text` begins with, and what stands behind it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c == '"' || c.is_whitespace()).unwrap_or(text.len());
        let (name, behind) = text.split_at(end);
        return (!name.is_empty()).then(|| (name.to_ascii_lowercase(), behind));
    };
    let mut name = String::new();
    loop {
        let (part, behind) = quoted.split_once('"')?;
        name.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                quoted = more;
            }
            None => return (!name.is_empty()).then_some((name, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TrustedLogins;

    #[test]
    fn lists() {
        for (list, names) in [
            ("", &[][..]),
            ("  ", &[]),
            ("authenticator", &["authenticator"]),
            (" Authenticator ,supabase_admin", &["authenticator", "supabase_admin"]),
            (r#""Odd, role", "a""b" ,c"#, &["Odd, role", "a\"b", "c"]),
        ] {
            assert_eq!(
                TrustedLogins::parse(list),
                Ok(TrustedLogins(names.iter().map(|n| (*n).into()).collect()))
            );
        }
        for list in [",", "a,", ",a", "a,,b", "a b", "\"a", "\"\"", "\"a\"b", "a\"b\"", "a, \""] {
            assert!(TrustedLogins::parse(list).is_err(), "{list}");
        }
    }

    #[test]
    fn names_are_compared_whole() {
        let trusted = TrustedLogins::parse("authenticator").unwrap();
        assert!(trusted.name("authenticator") && !trusted.is_empty());
        assert!(!trusted.name("Authenticator") && !trusted.name("authenticato") && !trusted.name(""));
    }
}

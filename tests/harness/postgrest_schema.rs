//! What PostgREST reads of the schema at its start, and again when it is told to.

use postgres::Client;
use std::collections::HashMap;

#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub is_volatile: bool,
    /// One unnamed argument of type jsonb: the raw body.
    pub takes_body: bool,
    /// The result's type, quoted, where its name is a media type.
    pub media_domain: Option<String>,
    /// Its result is void.
    pub gives_nothing: bool,
}

pub struct Schema {
    functions: Vec<Function>,
    tables: Vec<String>,
    /// What ALTER ROLE … SET gives, by role.
    settings: HashMap<String, Vec<(String, String)>>,
}

const FUNCTIONS: &str = "
    select p.proname::text, p.provolatile = 'v', p.pronargs = 1,
           case when t.typname like '%/%' then format('\"%s\".\"%s\"', t.typnamespace::regnamespace, t.typname) end,
           p.prorettype = 'void'::regtype
      from pg_proc p join pg_type t on t.oid = p.prorettype
     where p.pronamespace = 'public'::regnamespace
       and (p.pronargs = 0 or p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype and p.proargnames is null)";

const SETTINGS: &str = "
    select r.rolname::text, split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1)
      from pg_roles r, unnest(r.rolconfig) s(setting)";

impl Schema {
    pub fn read(client: &mut Client) -> Self {
        let functions = client.query(FUNCTIONS, &[]).unwrap();
        let functions = functions.iter().map(|row| Function {
            name: row.get(0),
            is_volatile: row.get(1),
            takes_body: row.get(2),
            media_domain: row.get(3),
            gives_nothing: row.get(4),
        });
        let tables = "select relname::text from pg_class where relnamespace = 'public'::regnamespace";
        let tables = client.query(tables, &[]).unwrap();
        let mut settings: HashMap<_, Vec<_>> = HashMap::new();
        for row in client.query(SETTINGS, &[]).unwrap() {
            settings.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
        }
        Self {
            functions: functions.collect(),
            tables: tables.iter().map(|row| row.get(0)).collect(),
            settings,
        }
    }

    /// The function of this name that takes a body, or the one that takes nothing.
    pub fn function(&self, name: &str, with_body: bool) -> Option<Function> {
        let named = || self.functions.iter().filter(|function| function.name == name);
        named().find(|function| function.takes_body == with_body).cloned()
    }

    pub fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table == name)
    }

    pub fn role_settings(&self, role: &str) -> Vec<(String, String)> {
        self.settings.get(role).cloned().unwrap_or_default()
    }
}

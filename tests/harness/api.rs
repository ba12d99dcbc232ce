//! A database whose API is open to the Supabase roles, with users of different rights.

use super::postgrest::PostgRest;
use super::{installed, shared, value};
use postgres::Client;
use serde_json::{Value, json};

/// A status snapshot in the seed's shape.
pub const STATUS: &str = r#"{"overall": "ok", "host": {"cpu": 0.07, "load": [0.21, 0.18, 0.15],
    "mem": {"usedMb": 1840, "totalMb": 3920}, "uptime": 1820394},
    "components": [{"key": "dashboard", "label": "Dashboard",
                    "probe": {"up": true, "httpStatus": 200, "latencyMs": 42}, "unitState": "active"}]}"#;

/// A database with an API for the Supabase roles, a fleet, and the users `v` (viewer) and `s` (stats:view alone).
pub fn served(prefix: &str) -> (Client, PostgRest) {
    let (_, mut client) = installed(prefix);
    client
        .batch_execute(&format!(
            "select busymate_stats.create_fleet_tables();
             insert into public.entries (host, status) values ('example.com', 200);
             select busymate_stats.grant_api(role) from unnest('{{anon,authenticated,service_role}}'::name[]) role;
             insert into busymate_stats.roles (name) values ('counter');
             select busymate_stats.grant_capability('counter', 'stats:view');
             select busymate_stats.assign_role('v', 'viewer');
             select busymate_stats.assign_role('s', 'counter');
             insert into public.service_status (snapshot) values ('{STATUS}')"
        ))
        .unwrap();
    let postgrest = postgrest(&mut client, 1);
    (client, postgrest)
}

/// PostgREST in front of the database that `client` is in.
pub fn postgrest(client: &mut Client, sessions: usize) -> PostgRest {
    let database: String = value(client, "select current_database()::text");
    PostgRest::start(shared(), &database, sessions)
}

/// The claims of a user.
pub fn user(sub: &str) -> Option<Value> {
    Some(json!({ "role": "authenticated", "sub": sub }))
}

//! PostgREST as the database sees it: its statements, word for word, in its order and access mode, on pooled sessions of
//! `authenticator`; and as its client sees it: status, headers and body. What it does beyond that is left out.

use super::Cluster;
use super::postgrest_schema::{Function, Schema};
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{FromSql, ToSql, Type};
use postgres::{Client, Notification, Statement};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Mutex;

/// A request, its token already checked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The claims of the bearer token, if there is one.
    pub claims: Option<Value>,
    pub body: String,
}

impl Request {
    pub fn new(method: &str, path: &str, claims: Option<Value>) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let headers = vec![("accept".into(), "*/*".into())];
        Self {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            headers,
            claims,
            body: String::new(),
        }
    }

    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self.header("content-type", "application/json")
    }

    /// With this Accept header, rather than that it takes anything.
    pub fn accept(mut self, media_type: &str) -> Self {
        self.headers.retain(|(name, _)| name != "accept");
        self.header("accept", media_type)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What PostgREST says by itself.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "code": code, "details": null, "hint": null, "message": message });
        Self { status, headers: vec![JSON_CONTENT()], body: body.to_string() }
    }
}

#[allow(non_snake_case)]
fn JSON_CONTENT() -> (String, String) {
    ("Content-Type".into(), "application/json; charset=utf-8".into())
}

/// One pooled session, with the statements that it has prepared.
struct Session {
    client: Client,
    prepared: HashMap<String, Statement>,
}

/// What the main query gives.
struct Row {
    body: String,
    headers: Option<String>,
    status: Option<String>,
}

/// The bytes of a value of any type that is sent as text, a domain's too.
struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.into()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Session {
    fn run(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<postgres::Row>, postgres::Error> {
        let statement = match self.prepared.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(sql)?;
                self.prepared.insert(sql.into(), statement.clone());
                statement
            }
        };
        self.client.query(&statement, params)
    }

    /// One transaction, as PostgREST runs it.
    fn transaction(
        &mut self,
        write: bool,
        settings: &[(String, String)],
        pre_request: Option<&str>,
        main: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, postgres::Error> {
        let access = if write { "WRITE" } else { "ONLY" };
        self.run(&format!("BEGIN ISOLATION LEVEL READ COMMITTED READ {access}"), &[])?;
        let calls: Vec<_> = (1..=settings.len())
            .map(|number| format!("set_config('{}', ${number}, true)", settings[number - 1].0))
            .collect();
        let values: Vec<&(dyn ToSql + Sync)> =
            settings.iter().map(|(_, value)| value as &(dyn ToSql + Sync)).collect();
        let outcome = self
            .run(&format!("select {}", calls.join(", ")), &values)
            .and_then(|_| {
                pre_request.map_or(Ok(Vec::new()), |name| self.run(&format!("select {name}()"), &[]))
            })
            .and_then(|_| self.run(main, params));
        let outcome = outcome.map(|rows| Row {
            body: rows[0].get::<_, Option<Text>>("body").map(|text| text.0).unwrap_or_default(),
            headers: rows[0].get("response_headers"),
            status: rows[0].get("response_status"),
        });
        self.run(if outcome.is_ok() { "COMMIT" } else { "ABORT" }, &[])?;
        outcome
    }
}

const RESPONSE_COLUMNS: &str = "nullif(current_setting('response.headers', true), '') AS response_headers, \
     nullif(current_setting('response.status', true), '') AS response_status, '' AS response_inserted";

/// What asks for one object. PostgREST lets no function of the user's answer that: it makes the object itself.
const ONE_OBJECT: &str = "application/vnd.pgrst.object+json";

fn call(function: &Function, request: &Request) -> String {
    let name = &function.name;
    let argument = if function.takes_body { "$1::jsonb" } else { "" };
    let one_object = request.headers.iter().any(|(name, value)| name == "accept" && value == ONE_OBJECT);
    let body = match &function.media_domain {
        Some(domain) if !one_object => format!("{domain}(_postgrest_t.pgrst_scalar) AS body"),
        _ => "coalesce(json_agg(_postgrest_t.pgrst_scalar)->0, 'null') AS body".into(),
    };
    format!(
        "WITH pgrst_source AS (SELECT pgrst_call.pgrst_scalar FROM (SELECT \"public\".\"{name}\"({argument}) pgrst_scalar) pgrst_call) \
         SELECT null::bigint AS total_result_set, 1 AS page_total, {body}, {RESPONSE_COLUMNS} \
         FROM (SELECT \"{name}\".* FROM \"pgrst_source\" AS \"{name}\"   ) _postgrest_t"
    )
}

fn read(table: &str) -> String {
    format!(
        "WITH pgrst_source AS ( SELECT \"public\".\"{table}\".\"snapshot\" FROM \"public\".\"{table}\" WHERE  \"public\".\"{table}\".\"id\" = $1    )  \
         SELECT null::bigint AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, \
         coalesce(json_agg(_postgrest_t), '[]') AS body, {RESPONSE_COLUMNS} \
         FROM ( SELECT * FROM pgrst_source ) _postgrest_t"
    )
}

/// The server: a pool of sessions, one more that listens, and what it knows of the schema.
pub struct PostgRest {
    pool: Mutex<Vec<Session>>,
    listener: Mutex<Client>,
    schema: Mutex<Schema>,
    /// The function that it calls before each request: `db-pre-request`.
    pub pre_request: Option<String>,
}

impl PostgRest {
    pub fn start(cluster: &Cluster, database: &str, sessions: usize) -> Self {
        let connect = || {
            let mut client = cluster.connect_as("authenticator", database);
            client.batch_execute("SET client_encoding = 'UTF8';SET client_min_messages TO WARNING;").unwrap();
            client
        };
        let mut listener = connect();
        listener.batch_execute("LISTEN \"pgrst\"").unwrap();
        let schema = Schema::read(&mut listener);
        let pool = (0..sessions).map(|_| Session { client: connect(), prepared: HashMap::new() }).collect();
        Self {
            pool: Mutex::new(pool),
            listener: Mutex::new(listener),
            schema: Mutex::new(schema),
            pre_request: None,
        }
    }

    /// Reads the schema anew if it was told to since the last request; says whether.
    pub fn reload_if_told(&self) -> bool {
        let mut listener = self.listener.lock().unwrap();
        // A round trip, so that what was sent before it has arrived.
        listener.batch_execute("").unwrap();
        let reload = |told: bool, notification: Notification| {
            Ok(told || (notification.channel(), notification.payload()) == ("pgrst", "reload schema"))
        };
        let told = listener.notifications().iter().fold(false, reload).unwrap();
        if told {
            *self.schema.lock().unwrap() = Schema::read(&mut listener);
        }
        told
    }

    pub fn handle(&self, request: &Request) -> Response {
        self.reload_if_told();
        let mut response = if request.method == "OPTIONS" {
            Response { status: 200, ..Response::default() }
        } else if let Some(name) = request.path.strip_prefix("/rpc/") {
            self.rpc(name, request)
        } else {
            self.table(request.path.trim_start_matches('/'), request)
        };
        if request.method == "HEAD" {
            response.body.clear();
        }
        response
    }

    fn rpc(&self, name: &str, request: &Request) -> Response {
        if !["GET", "HEAD", "POST"].contains(&request.method.as_str()) {
            return Response::error(405, "PGRST101", "Cannot use this method on RPC");
        }
        let body = match body_kind(request) {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let function = self.schema.lock().unwrap().function(name, body == Body::ForTheFunction);
        let Some(function) = function else {
            return Response::error(404, "PGRST202", "Could not find the function in the schema cache");
        };
        let write = request.method == "POST" && function.is_volatile;
        let sql = call(&function, request);
        let params: &[&(dyn ToSql + Sync)] =
            if function.takes_body { &[&RawJsonb(&request.body)] } else { &[] };
        let answer = self.answer(request, write, &sql, params, function.media_domain.is_some());
        if function.gives_nothing && answer.status == 200 {
            return Response { status: 204, ..Response::default() };
        }
        answer
    }

    fn table(&self, name: &str, request: &Request) -> Response {
        assert_eq!((request.method.as_str(), request.query.as_str()), ("GET", "id=eq.1&select=snapshot"));
        if !self.schema.lock().unwrap().has_table(name) {
            return Response::error(404, "PGRST205", "Could not find the table in the schema cache");
        }
        self.answer(request, false, &read(name), &[&1], false)
    }

    fn answer(
        &self,
        request: &Request,
        write: bool,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        custom_media: bool,
    ) -> Response {
        let settings = self.settings(request);
        let mut session = loop {
            if let Some(session) = self.pool.lock().unwrap().pop() {
                break session;
            }
            std::thread::yield_now();
        };
        let outcome = session.transaction(write, &settings, self.pre_request.as_deref(), sql, params);
        self.pool.lock().unwrap().push(session);
        match outcome {
            Ok(row) => success(row, custom_media),
            Err(error) => failure(&error, request.claims.is_some()),
        }
    }

    fn settings(&self, request: &Request) -> Vec<(String, String)> {
        let mut claims = request.claims.clone().unwrap_or_else(|| json!({}));
        let role = claims["role"].as_str().unwrap_or("anon").to_owned();
        claims["role"] = json!(role);
        let headers: serde_json::Map<String, Value> = request
            .headers
            .iter()
            .filter(|(name, _)| name != "cookie")
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        let mut settings = vec![("search_path".to_owned(), r#""public", "public""#.to_owned())];
        settings.extend(self.schema.lock().unwrap().role_settings(&role));
        settings.push(("role".into(), role));
        settings.push(("request.jwt.claims".into(), claims.to_string()));
        settings.push(("request.method".into(), request.method.clone()));
        settings.push(("request.path".into(), request.path.clone()));
        settings.push(("request.headers".into(), Value::Object(headers).to_string()));
        settings.push(("request.cookies".into(), "{}".into()));
        settings
    }
}

/// JSON text in jsonb's binary format, parsed by the server alone.
#[derive(Debug)]
struct RawJsonb<'a>(&'a str);

impl ToSql for RawJsonb<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut postgres::types::private::BytesMut,
    ) -> Result<postgres::types::IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&[1]);
        out.extend_from_slice(self.0.as_bytes());
        Ok(postgres::types::IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    postgres::types::to_sql_checked!();
}

#[derive(PartialEq, Eq)]
enum Body {
    /// Goes to the function with one unnamed argument.
    ForTheFunction,
    /// Names no argument: goes to the function without one.
    Nothing,
}

fn body_kind(request: &Request) -> Result<Body, Response> {
    if request.method != "POST" || request.body.is_empty() {
        return Ok(Body::Nothing);
    }
    // Names, numbers and nesting are not looked at here, as PostgREST does not.
    let Ok(raw) = serde_json::from_str::<Box<serde_json::value::RawValue>>(&request.body) else {
        return Err(Response::error(400, "PGRST102", "Empty or invalid json"));
    };
    let text = raw.get();
    match text.as_bytes()[0] {
        b'{' if text[1..].trim_start() != "}" => Ok(Body::ForTheFunction),
        b'[' => match serde_json::from_str::<Vec<HashMap<String, Box<serde_json::value::RawValue>>>>(text) {
            Ok(rows) if rows.is_empty() => Ok(Body::Nothing),
            Ok(rows) if rows.windows(2).all(|pair| pair[0].keys().all(|key| pair[1].contains_key(key))) => {
                Ok(Body::ForTheFunction)
            }
            _ => Err(Response::error(400, "PGRST102", "All object keys must match")),
        },
        _ => Ok(Body::Nothing),
    }
}

fn success(row: Row, custom_media: bool) -> Response {
    let mut headers = Vec::new();
    for object in
        row.headers.map(|text| serde_json::from_str::<Vec<Value>>(&text).unwrap()).unwrap_or_default()
    {
        for (name, value) in object.as_object().unwrap() {
            headers.push((name.clone(), value.as_str().unwrap().to_owned()));
        }
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        let octets = ("Content-Type".to_owned(), "application/octet-stream".to_owned());
        headers.push(if custom_media { octets } else { JSON_CONTENT() });
    }
    let status = row.status.map_or(200, |status| status.parse().unwrap());
    Response { status, headers, body: row.body }
}

fn failure(error: &postgres::Error, authenticated: bool) -> Response {
    let report = error.as_db_error().unwrap_or_else(|| panic!("not an error of the server: {error:?}"));
    let code = report.code().code();
    let status = match code {
        "42501" if authenticated => 403,
        "42501" => 401,
        "25006" => 405,
        "42883" | "42P01" => 404,
        _ if code.starts_with("53") => 503,
        _ if code.starts_with("54") => 500,
        _ if ["08", "25", "55", "57", "58", "XX"].contains(&&code[..2]) => 500,
        _ => 400,
    };
    let body = json!({
        "code": code, "message": report.message(), "details": report.detail(), "hint": report.hint()
    });
    let mut headers = vec![JSON_CONTENT()];
    if status == 401 {
        headers.push(("WWW-Authenticate".into(), "Bearer".into()));
    }
    Response { status, headers, body: body.to_string() }
}

//! HTTP in front of [`PostgRest`], for clients that are not ours: HTTP/1.1 over loopback, and tokens signed with HS256.

use super::postgrest::{PostgRest, Request, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

/// What tokens are signed with.
pub const SECRET: &[u8] = b"only for tests, and long enough for HS256";

fn sign(text: &str) -> String {
    let keyed = |pad: u8| {
        let mut key = [pad; 64];
        key.iter_mut().zip(SECRET).for_each(|(byte, secret)| *byte ^= secret);
        Sha256::new_with_prefix(key)
    };
    let inner = keyed(0x36).chain_update(text).finalize();
    URL_SAFE_NO_PAD.encode(keyed(0x5c).chain_update(inner).finalize())
}

/// A token with these claims.
pub fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    format!("{signed}.{}", sign(&signed))
}

fn claims_of(token: &str) -> Result<Value, Response> {
    let invalid = || Response::error(401, "PGRST301", "No suitable key or wrong key type");
    let (signed, signature) = token.rsplit_once('.').ok_or_else(invalid)?;
    if sign(signed) != signature {
        return Err(invalid());
    }
    let payload = signed.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(invalid)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    if claims["exp"].as_u64().is_some_and(|expires| expires <= now) {
        return Err(Response::error(401, "PGRST303", "JWT expired"));
    }
    Ok(claims)
}

/// A server on a port of its own, until the process ends.
pub struct Gateway {
    port: u16,
}

impl Gateway {
    pub fn start(postgrest: PostgRest) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let postgrest = Arc::new(postgrest);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let postgrest = Arc::clone(&postgrest);
                std::thread::spawn(move || serve(&postgrest, stream));
            }
        });
        Self { port }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

fn serve(postgrest: &PostgRest, mut stream: TcpStream) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    // Ends when the client closes the connection.
    while let Ok(Some(request)) = read(&mut input) {
        let response = match authenticate(request) {
            Ok(request) => postgrest.handle(&request),
            Err(refused) => refused,
        };
        let mut head =
            format!("HTTP/1.1 {} -\r\nContent-Length: {}\r\n", response.status, response.body.len());
        for (name, value) in &response.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if stream.write_all(format!("{head}\r\n{}", response.body).as_bytes()).is_err() {
            return;
        }
    }
}

fn authenticate(mut request: Request) -> Result<Request, Response> {
    let bearer = request.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value);
    request.claims = match bearer.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) => Some(claims_of(token)?),
        None => None,
    };
    Ok(request)
}

fn read(input: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { headers: Vec::new(), ..Request::new(method, path, None) };
    let mut length = 0;
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let (name, value) = (name.to_ascii_lowercase(), value.trim_start());
        match name.as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "transfer-encoding" => panic!("this gateway reads no {value} bodies"),
            _ => {}
        }
        request.headers.push((name, value.to_owned()));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}

//! One HTTP request, and what to say about its answer.

use super::component::{Component, parse_url};
use super::snapshot::Probe;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Error};

/// Room for any honest answer's headers.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// What a component's URL answered, and what an operator should know about it.
pub type Outcome = (Probe, Option<String>);

/// The root certificates, read once for all probes of a check, by the first that needs them.
#[derive(Clone, Default)]
pub struct Roots(Arc<OnceLock<Vec<Certificate<'static>>>>);

impl Roots {
    /// The system's, or those that SSL_CERT_FILE and SSL_CERT_DIR name.
    fn get(&self) -> &[Certificate<'static>] {
        self.0.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect()
        })
    }
}

/// Asks a component's URL once. Takes no longer than its timeout, apart from what its caller must allow for.
pub fn probe(component: &Component, url: &str, roots: &Roots) -> Outcome {
    let uri = match parse_url(url) {
        Ok(uri) => uri,
        Err(reason) => return (Probe::NONE, Some(reason)),
    };
    let timeout = component.timeout();
    let started = Instant::now();
    let secure = uri.scheme_str() == Some("https");
    let answer = agent(timeout, secure.then(|| roots.get())).get(uri).call();
    let latency = started.elapsed();
    match answer {
        // An answer that was read to its headers' end just as the time ran out.
        Ok(_) if latency > timeout => (Probe::NONE, Some(timed_out(timeout))),
        Ok(response) => judge(component, response.status().as_u16(), latency),
        Err(error) => (Probe::NONE, Some(explain(&error, timeout))),
    }
}

fn judge(component: &Component, status: u16, latency: Duration) -> Outcome {
    let expected = component.expected();
    let up = expected.contains(&i64::from(status));
    let reason =
        format!("the answer was HTTP {status}, and {} to {} is expected", expected.start(), expected.end());
    let probe = Probe { up, http_status: Some(status), latency_ms: Some(latency.as_millis() as u64) };
    (probe, (!up).then_some(reason))
}

/// A client that asks once: no redirect is followed, no proxy taken from the environment, no answer an error, no
/// connection kept.
fn agent(timeout: Duration, roots: Option<&[Certificate<'static>]>) -> Agent {
    let mut tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    if let Some(roots) = roots {
        tls = tls.root_certs(RootCerts::new_with_certs(roots));
    }
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_response_header_size(MAX_HEADER_BYTES)
        .max_idle_connections(0)
        .user_agent(concat!("busymate_stats/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls.build())
        .build()
        .new_agent()
}

/// What is said of a component that did not answer in time.
pub fn timed_out(timeout: Duration) -> String {
    format!("no answer within {timeout:?}")
}

fn explain(error: &Error, timeout: Duration) -> String {
    match error {
        Error::Timeout(_) => timed_out(timeout),
        Error::HostNotFound => "the host name does not resolve".into(),
        Error::LargeResponseHeader(..) => "the answer's headers are longer than 64 kB".into(),
        Error::Rustls(error) => explain_tls(error),
        Error::Io(error) => explain_io(error, timeout),
        Error::Protocol(error) => format!("the answer is no HTTP: {error}"),
        other => other.to_string(),
    }
}

/// rustls has words for most of what is wrong with a certificate, and none for this one.
fn explain_tls(error: &rustls::Error) -> String {
    if error.to_string().contains("CaUsedAsEndEntity") {
        return "TLS: the server's certificate is one of an authority (CA:TRUE), as `openssl req -x509` makes them; make \
                one for a server: add -addext basicConstraints=critical,CA:FALSE"
            .into();
    }
    format!("TLS: {error}")
}

fn explain_io(error: &io::Error, timeout: Duration) -> String {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return explain_tls(tls);
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => timed_out(timeout),
        io::ErrorKind::ConnectionRefused => "the connection was refused".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset".into(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => {
            "the connection was closed without an answer".into()
        }
        _ if error.source().is_none() && error.to_string().contains("lookup address") => {
            format!("the host name does not resolve: {error}")
        }
        _ => error.to_string(),
    }
}

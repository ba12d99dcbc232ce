//! Certificates: a probe trusts what the system trusts, for the host that was asked, at this time.

use harness::Cluster;
use harness::listeners::{listen_on, read_request};
use harness::status::{component, install, quiet_cluster, reason, refreshed, watch_url};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority that the cluster's server trusts, and no other.
fn trusted() -> &'static (Cluster, Authority) {
    static TRUSTED: OnceLock<(Cluster, Authority)> = OnceLock::new();
    TRUSTED.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "The trusted authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file: PathBuf = std::env::temp_dir().join(format!("busymate-root-{}.pem", std::process::id()));
        std::fs::write(&file, authority.pem()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        (quiet_cluster(&[("SSL_CERT_FILE", file.to_str().unwrap())]), authority)
    })
}

/// Serves HTTPS with this certificate; gives the URL.
fn serve(certificate: CertificateDer<'static>, key: &KeyPair) -> String {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let address = listen_on("127.0.0.1:0", move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        if !read_request(&mut stream).is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    format!("https://{address}/")
}

/// Serves a certificate of the trusted authority for `name`.
fn serve_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &trusted().1).unwrap();
    serve(certificate.der().clone(), &key)
}

fn probe(url: &str) -> (serde_json::Value, Option<String>) {
    let mut client = install(&trusted().0, "tls");
    watch_url(&mut client, "web", url);
    client.batch_execute("update busymate_stats.components set timeout = '3 s'").unwrap();
    let snapshot = refreshed(&mut client);
    (component(&snapshot, "web")["probe"].clone(), reason(&mut client, "web"))
}

#[track_caller]
fn assert_refused(url: &str, says: &str) {
    let (probe, reason) = probe(url);
    assert_eq!(probe, json!({"up": false, "httpStatus": null, "latencyMs": null}));
    let reason = reason.unwrap();
    assert!(reason.starts_with("TLS: ") && reason.contains(says), "{reason}");
}

#[test]
fn a_certificate_of_a_trusted_authority_is_up() {
    let (probe, reason) = probe(&serve_signed("127.0.0.1", |_| {}));
    assert_eq!(probe["up"], true, "{reason:?}");
    assert_eq!(probe["httpStatus"], 200);
    assert_eq!(reason, None);
}

#[test]
fn an_expired_one_is_down() {
    let url = serve_signed("127.0.0.1", |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_refused(&url, "expired");
}

#[test]
fn one_for_another_name_is_down() {
    assert_refused(&serve_signed("elsewhere.example", |_| {}), "not valid for name");
}

#[test]
fn one_that_signed_itself_is_down() {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    assert_refused(&serve(certificate.der().clone(), &key), "UnknownIssuer");
}

/// What `openssl req -x509` makes and people add to what the system trusts: not refused for that, but for what it is.
#[test]
fn an_authoritys_own_is_down_and_says_what_to_make() {
    let authority = trusted().1.der().clone();
    let url = serve(authority, trusted().1.key());
    let (_, reason) = probe(&url);
    let reason = reason.unwrap();
    assert!(reason.starts_with("TLS: the server's certificate is one of an authority (CA:TRUE)"), "{reason}");
    assert!(
        reason.contains("-addext basicConstraints=critical,CA:FALSE") && !reason.contains("Other("),
        "{reason}"
    );
}

/// And what the sentence says to make is up.
#[test]
fn one_that_signed_itself_for_a_server_is_up_where_it_is_trusted() {
    let directory = std::env::temp_dir().join(format!("busymate-own-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
    harness::run(
        std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&certificate, std::fs::Permissions::from_mode(0o644)).unwrap();
    let cluster = quiet_cluster(&[("SSL_CERT_FILE", certificate.to_str().unwrap())]);
    let key = KeyPair::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    let der = CertificateDer::from_pem_file(&certificate).unwrap();
    let mut client = install(&cluster, "own");
    watch_url(&mut client, "web", &serve(der, &key));
    let snapshot = refreshed(&mut client);
    assert_eq!(component(&snapshot, "web")["probe"]["up"], true, "{:?}", reason(&mut client, "web"));
}

#[test]
fn plain_http_on_the_port_is_down() {
    let url = harness::listeners::answering("HTTP/1.1 200 OK\r\n\r\n").replace("http:", "https:");
    let (probe, reason) = probe(&url);
    assert_eq!(probe["up"], false);
    assert!(reason.is_some());
}

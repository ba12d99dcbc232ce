//! What a probe makes of each kind of answer, and of none.

use harness::listeners::{
    answering, answering_and_waiting, counting, hanging, listen, listen_on, nobody, read_request,
};
use harness::status::{component, install, quiet_cluster, reason, refreshed, watch_url};
use harness::{Cluster, value};
use postgres::Client;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn watching(url: &str) -> (Client, Value) {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    // Nobody is behind this proxy: a probe that took it would fail.
    let nowhere = nobody();
    let environment = [("http_proxy", nowhere.as_str()), ("ALL_PROXY", nowhere.as_str())];
    let cluster = CLUSTER.get_or_init(|| quiet_cluster(&environment));
    let mut client = install(cluster, "probes");
    watch_url(&mut client, "web", url);
    let snapshot = refreshed(&mut client);
    let web = component(&snapshot, "web").clone();
    (client, web)
}

#[track_caller]
fn assert_answered(url: &str, up: bool, status: u16) -> Option<String> {
    let (mut client, web) = watching(url);
    assert_eq!(web["probe"]["up"], up, "{web}");
    assert_eq!(web["probe"]["httpStatus"], status, "{web}");
    assert!(web["probe"]["latencyMs"].as_u64().is_some_and(|latency| latency <= 500), "{web}");
    assert!(web.get("unitState").is_none(), "{web}");
    reason(&mut client, "web")
}

/// No answer that counts; gives the reason.
#[track_caller]
fn assert_silent(url: &str) -> String {
    let (mut client, web) = watching(url);
    assert_eq!(web["probe"], json!({"up": false, "httpStatus": null, "latencyMs": null}));
    reason(&mut client, "web").expect("a reason")
}

#[test]
fn a_status_in_the_expected_range_is_up() {
    assert_eq!(
        assert_answered(&answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), true, 200),
        None
    );
    assert_eq!(assert_answered(&answering("HTTP/1.1 204 No Content\r\n\r\n"), true, 204), None);
    assert_eq!(assert_answered(&answering("HTTP/1.0 200 OK\r\n\r\n"), true, 200), None);
}

#[test]
fn one_outside_is_down_with_its_figures() {
    for (answer, status) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404),
        ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", 500),
    ] {
        let reason = assert_answered(&answering(answer), false, status).unwrap();
        assert_eq!(reason, format!("the answer was HTTP {status}, and 200 to 399 is expected"));
    }
}

#[test]
fn the_expected_range_is_the_components_own() {
    let (mut client, _) = watching(&answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
    client.batch_execute("update busymate_stats.components set expect_min = 404, expect_max = 404").unwrap();
    let snapshot = refreshed(&mut client);
    assert_eq!(snapshot["overall"], "ok");
    assert_eq!(component(&snapshot, "web")["probe"]["up"], true);
}

#[test]
fn a_redirect_is_an_answer_and_not_followed() {
    let (elsewhere, visits) = counting();
    let url = listen(move |mut stream| {
        read_request(&mut stream);
        let answer =
            format!("HTTP/1.1 301 Moved Permanently\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    assert_eq!(assert_answered(&url, true, 301), None);
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[test]
fn a_body_is_not_waited_for() {
    let url = answering_and_waiting("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe first bytes");
    assert_eq!(assert_answered(&url, true, 200), None);
}

#[test]
fn silence_is_down() {
    assert_eq!(assert_silent(&hanging()), "no answer within 500ms");
    assert_eq!(
        assert_silent(&answering_and_waiting("HTTP/1.1 200 OK\r\nServer: sl")),
        "no answer within 500ms"
    );
}

#[test]
fn headers_without_end_are_down_whether_they_trickle_or_rush() {
    let url = |pause: u64| {
        listen(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-More: and more and more and more\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(pause));
            }
        })
    };
    assert_eq!(assert_silent(&url(20)), "no answer within 500ms");
    assert!(!assert_silent(&url(0)).is_empty());
}

#[test]
fn a_megabyte_of_headers_is_too_much() {
    let url = listen(|mut stream| {
        read_request(&mut stream);
        let header = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
        let _ = stream.write_all(header.as_bytes());
    });
    assert_eq!(assert_silent(&url), "the answer's headers are longer than 64 kB");
}

#[test]
fn broken_connections_are_down() {
    // Closing with the request unread resets the connection.
    let reset = listen(|stream| {
        let _ = stream.peek(&mut [0]);
    });
    assert_eq!(assert_silent(&reset), "the connection was reset");
    let closed = listen(|mut stream| {
        read_request(&mut stream);
    });
    assert!(assert_silent(&closed).contains("closed"), "{}", assert_silent(&closed));
    assert_eq!(assert_silent(&nobody()), "the connection was refused");
    let no_http = assert_silent(&answering("SSH-2.0-OpenSSH_9.2\r\n"));
    assert!(no_http.starts_with("the answer is no HTTP"), "{no_http}");
}

#[test]
fn ipv6_is_probed_too() {
    let address = listen_on("[::1]:0", |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(assert_answered(&format!("http://{address}/"), true, 200), None);
}

#[test]
fn a_name_that_does_not_resolve_is_down() {
    let reason = assert_silent("http://nowhere.invalid/");
    // A resolver may be slow to say so.
    assert!(
        reason.starts_with("the host name does not resolve") || reason == "no answer within 500ms",
        "{reason}"
    );
}

#[test]
fn the_request_is_a_plain_get() {
    let (sender, requests) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let url = listen(move |mut stream| {
        sender.lock().unwrap().send(read_request(&mut stream)).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    watching(&format!("{url}health?deep=1"));
    let request = requests.recv_timeout(Duration::from_secs(60)).unwrap().to_lowercase();
    assert!(request.starts_with("get /health?deep=1 http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {}\r\n", &url[7..url.len() - 1])), "{request}");
    assert!(request.contains("user-agent: busymate_stats/"), "{request}");
    assert!(!request.contains("authorization") && !request.contains("cookie"), "{request}");
}

#[test]
fn all_are_asked_at_once() {
    let (mut client, _) = watching(&hanging());
    client
        .execute(
            "insert into busymate_stats.components (key, label, url, timeout)
             select 'hangs ' || n, 'Hangs', $1, interval '3 s' from generate_series(1, 20) n",
            &[&hanging()],
        )
        .unwrap();
    watch_url(&mut client, "works", &answering("HTTP/1.1 200 OK\r\n\r\n"));
    let snapshot = refreshed(&mut client);
    assert_eq!(snapshot["overall"], "degraded");
    assert_eq!(component(&snapshot, "works")["probe"]["up"], true);
    // One after the other, the silent ones would take a minute.
    let within: bool = value(
        &mut client,
        "select duration between '2900 ms' and '20 s' from busymate_stats.health where feed = 'status'",
    );
    assert!(within);
}

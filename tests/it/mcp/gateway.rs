//! `examples/mcp/nginx.conf`, in a real nginx in front of PostgREST: what an MCP client looks for to sign in by OAuth is there,
//! once, and everything else passes.

use harness::api::{served, user};
use harness::eventually;
use harness::gateway::{Gateway, token};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// nginx with the example, gone when this is dropped or the test process ends.
struct Nginx {
    port: u16,
    directory: PathBuf,
    process: Child,
}

impl Nginx {
    /// In front of `upstream`, on a free port, and without TLS; the rest is as it stands.
    fn start(upstream: &str) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let directory = std::env::temp_dir().join(format!("busymate-nginx-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let example = Path::new(harness::CHECKOUT).join("examples/mcp/nginx.conf");
        let site: String = fs::read_to_string(example)
            .unwrap()
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"))
            .replace("http://127.0.0.1:3000", upstream)
            .lines()
            .filter(|line| !line.trim_start().starts_with("ssl_certificate"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(site.contains(upstream) && site.contains(&port.to_string()), "{site}");
        let there = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {there}/{kind};\n"))
            .concat();
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let configuration = format!(
            "daemon off; {user} worker_processes 1; pid {there}/pid; error_log {there}/log;\n\
             events {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        // The shell ends nginx when this process's end of the pipe closes. Debian has it in /usr/sbin.
        let script = r#"PATH=$PATH:/usr/sbin; nginx -e "$0.log" -c "$0" & cat >/dev/null; kill $!; wait"#;
        let process =
            Command::new("/bin/sh").args(["-c", script]).arg(&file).stdin(Stdio::piped()).spawn().unwrap();
        let nginx = Self { port, directory, process };
        eventually("nginx listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        nginx
    }

    fn ask(&self, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let mut curl = Command::new("curl");
        // Not through a proxy of the machine.
        curl.env("no_proxy", "*").args(["-s", "-S", "-i", "-H", "Host: mcp.example.com"]);
        if let Some(token) = token {
            curl.arg("-H").arg(format!("Authorization: Bearer {token}"));
        }
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "-d"]).arg(body.to_string());
        }
        Answer::read(&harness::run(curl.arg(format!("http://127.0.0.1:{}{path}", self.port))))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    challenges: Vec<String>,
    body: Value,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("www-authenticate").then(|| value.to_owned())
        };
        Self {
            status,
            challenges: lines.filter_map(header).collect(),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }
}

#[test]
fn a_client_that_signs_in_finds_the_metadata() {
    let (mut client, postgrest) = served("nginx");
    client.batch_execute("revoke execute on function public.mcp(jsonb), public.mcp() from anon").unwrap();
    let nginx = Nginx::start(&Gateway::start(postgrest).url(""));
    let call =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "get_stats" } });
    let valid = token(&user("v").unwrap());

    let expired = token(&json!({ "role": "authenticated", "sub": "v", "exp": 1 }));
    for token in [None, Some(expired.as_str())] {
        let refused = nginx.ask("/", token, Some(&call));
        assert_eq!(refused.status, 401, "{refused:?}");
        let metadata = refused.challenges[0].split('"').nth(1).unwrap();
        assert_eq!(refused.challenges, [format!("Bearer resource_metadata=\"{metadata}\"")]);
        let path = metadata.strip_prefix("https://mcp.example.com").unwrap();
        let document = nginx.ask(path, None, None);
        assert_eq!((document.status, &document.body["resource"]), (200, &json!("https://mcp.example.com/")));
        assert!(document.body["authorization_servers"][0].is_string(), "{document:?}");
        // What was wrong is for the client to know.
        assert!(refused.body["code"].is_string(), "{refused:?}");
    }

    let answered = nginx.ask("/", Some(&valid), Some(&call));
    assert_eq!((answered.status, answered.challenges.len()), (200, 0), "{answered:?}");
    assert_eq!(answered.body["result"]["isError"], false);
    let none = nginx.ask("/", Some(&valid), None);
    assert_eq!((none.status, none.challenges.len()), (405, 0), "{none:?}");
}

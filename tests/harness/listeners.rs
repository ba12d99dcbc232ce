//! Servers on loopback that answer probes, each in its own way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Serves each connection with `serve`, for as long as the test process lives.
pub fn listen_on(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// [`listen_on`] a port of 127.0.0.1; gives the URL.
pub fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    format!("http://{}/", listen_on("127.0.0.1:0", serve))
}

/// Reads a request's headers.
pub fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.push(byte[0]);
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// Answers every request with these bytes, and closes.
pub fn answering(answer: &'static str) -> String {
    listen(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
    })
}

/// Answers with these bytes, and then stays silent with the connection open.
pub fn answering_and_waiting(answer: &'static str) -> String {
    listen(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
        // Until the other side goes away.
        let _ = stream.read(&mut [0]);
    })
}

/// Takes connections and never says anything.
pub fn hanging() -> String {
    answering_and_waiting("")
}

/// A healthy server, and how many requests it has had.
pub fn counting() -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let url = listen(move |mut stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    (url, count)
}

/// A port that nobody listens on.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

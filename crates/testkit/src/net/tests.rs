//! Claims about the TCP proxy, before a server that answers each byte with itself.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;

/// The port of a server that answers each byte with itself, for ever.
fn echo() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    port
}

fn connect(proxy: &TcpProxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends some bytes and reads as many; what came back before the end or the failure.
fn exchange(mut stream: &TcpStream, bytes: usize) -> Result<(), (usize, ErrorKind)> {
    let sent: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
    stream.write_all(&sent).map_err(|error| (0, error.kind()))?;
    let mut read = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        match stream.read(&mut read[at..]) {
            Ok(0) => return Err((at, ErrorKind::UnexpectedEof)),
            Ok(length) => at += length,
            Err(error) => return Err((at, error.kind())),
        }
    }
    assert_eq!(read, sent);
    Ok(())
}

#[test]
fn without_trouble_it_is_invisible() {
    let proxy = TcpProxy::start(echo());
    let stream = connect(&proxy);
    for bytes in [1, 1000, 60_000] {
        assert_eq!(exchange(&stream, bytes), Ok(()));
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "an end is handed on");
    assert_eq!((proxy.struck(), proxy.connections()), (0, 1));
}

#[test]
fn connections_end_as_they_are_told_to() {
    let proxy = TcpProxy::start(echo());
    let stream = connect(&proxy);
    proxy.strike(Trouble::Reset { after: 150 }, 1);
    assert_eq!(exchange(&stream, 100), Err((50, ErrorKind::ConnectionReset)));
    assert_eq!(exchange(&connect(&proxy), 1000), Ok(()), "it struck once");

    proxy.strike(Trouble::HalfClose { after: 150 }, 1);
    assert_eq!(exchange(&connect(&proxy), 100), Err((50, ErrorKind::UnexpectedEof)));

    proxy.strike(Trouble::Refuse, 2);
    for _ in 0..2 {
        assert!(exchange(&connect(&proxy), 1).is_err());
    }
    let stream = connect(&proxy);
    assert_eq!(exchange(&stream, 1), Ok(()));
    assert_eq!(proxy.struck(), 4);
    proxy.cut();
    assert!(matches!(exchange(&stream, 1), Err((0, kind)) if kind != ErrorKind::UnexpectedEof));
    assert!(proxy.struck() > 4, "with whatever else was not closed yet");
}

#[test]
fn what_a_black_hole_held_back_arrives_later() {
    let proxy = TcpProxy::start(echo());
    let stream = connect(&proxy);
    proxy.set(Trouble::BlackHole { after: 150 });
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (came, kind) = exchange(&stream, 100).unwrap_err();
    assert_eq!((came, kind), (50, ErrorKind::WouldBlock));
    proxy.heal();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = [0; 50];
    (&stream).read_exact(&mut rest).unwrap();
    assert_eq!(rest[49], 99);
}

#[test]
fn slowness_is_slow_and_ends() {
    let proxy = TcpProxy::start(echo());
    let stream = connect(&proxy);
    let begun = Instant::now();
    proxy.set(Trouble::Latency(Duration::from_millis(150)));
    assert_eq!(exchange(&stream, 1000), Ok(()));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());

    proxy.set(Trouble::Trickle {
        every: Duration::from_millis(40),
    });
    let begun = Instant::now();
    assert_eq!(exchange(&stream, 5), Ok(()));
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    // The first byte of so many takes an hour, but only while the trouble lasts.
    proxy.set(Trouble::Trickle {
        every: Duration::from_secs(3600),
    });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| exchange(&stream, 1000));
        std::thread::sleep(Duration::from_millis(50));
        proxy.heal();
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
}

/// Aim: a TLS connection is cut where only its encryption can notice. Method: a real server with TLS.
#[test]
fn a_tls_connection_is_cut_in_a_record() {
    let server = crate::S3Server::shared();
    let proxy = TcpProxy::start(server.https_port());
    let ask = || {
        crate::Run::new("/usr/bin/openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", proxy.port())])
            .stdin("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .run()
    };
    assert!(ask().stdout.contains("HTTP/1.1 403"), "{}", ask());
    proxy.set(Trouble::CutRecord);
    let cut = ask();
    assert!(!cut.stdout.contains("HTTP"), "{cut}");
    assert_eq!(proxy.struck(), 1);
}

//! Serves the API on a unix socket: one daemon per socket, bounded clients, bounded requests, bounded time.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::{Answer, Kind, MAX_REQUEST, Request, read_request, to_line};
use crate::room::Room;

/// Clients served at one time; a further one waits for a place.
const PLACES: usize = 64;

/// How long a client that asks nothing keeps its place while others wait for one. A program on a busy machine
/// may take a while between connecting and asking.
const SILENT: Duration = Duration::from_millis(500);

/// How long a client may take over sending a request, and how long it may be idle.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take to read an answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
    /// For a capture: the connection, once the client has an answer that is no error.
    pub stream: Option<oneshot::Receiver<std::os::unix::net::UnixStream>>,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the lock.
    #[error(
        "another vxdp{} serves {}; stop it, take over with --takeover, or give this one its own [control] socket",
        .pid.map_or_else(String::new, |pid| format!(" (pid {pid})")), .socket.display()
    )]
    Taken {
        /// The socket.
        socket: PathBuf,
        /// The other daemon, where it said so.
        pid: Option<u32>,
    },
    /// The system refused.
    #[error("cannot {what} {}", .path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::System { what, path, source }
}

/// The right to serve a socket, held until it is dropped, also when the process is killed.
#[derive(Debug)]
pub struct Claim {
    socket: PathBuf,
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked, so it is ours to remove.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the open file is the one that stands at `path`.
fn stands_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, standing) = (file.metadata().map(identity), fs::metadata(path).map(identity));
    matches!((open, standing), (Ok(open), Ok(standing)) if open == standing)
}

impl Claim {
    /// Claims `socket`, creating its directory where that is missing.
    ///
    /// The lock is a file of its own beside the socket: a socket file cannot be locked, and it stays behind
    /// when its daemon is killed.
    pub fn new(socket: &Path) -> Result<Self, Error> {
        if let Some(directory) = socket.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            // 0755: others may look whether a daemon runs; socket, lock and ledger have modes of their own.
            let created = DirBuilder::new().recursive(true).mode(0o755).create(directory);
            created.map_err(failed("create the directory", directory))?;
        }
        let path = socket.with_extension("lock");
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(failed("open", &path))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if stands_at(&lock, &path) => return Self::sign(lock, path, socket),
                // Its daemon ended and removed it between our opening and our locking.
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => {
                    let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                    return Err(Error::Taken { socket: socket.to_owned(), pid });
                }
                Err((_, errno)) => return Err(failed("lock", &path)(errno.into())),
            }
        }
    }

    /// Writes our process id into the lock file, for the message of a daemon that is refused.
    fn sign(lock: Flock<File>, path: PathBuf, socket: &Path) -> Result<Self, Error> {
        lock.set_permissions(Permissions::from_mode(0o600)).map_err(failed("set the mode of", &path))?;
        lock.set_len(0).map_err(failed("write", &path))?;
        let pid = format!("{}\n", std::process::id());
        io::Write::write_all(&mut &*lock, pid.as_bytes()).map_err(failed("write", &path))?;
        Ok(Self { socket: socket.to_owned(), path, _lock: lock })
    }

    /// Opens the socket with mode 0600, in place of one that a killed daemon left behind.
    pub fn listen(&self) -> Result<Listener, Error> {
        let socket = &self.socket;
        match fs::remove_file(socket) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove the stale socket", socket)(error)),
        }
        // Bound under another name inside a directory that only we may enter, made private, and then
        // renamed: at no moment does the socket have a wider mode under any name that others reach.
        let private = socket.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_dir_all(&private);
        DirBuilder::new().mode(0o700).create(&private).map_err(failed("create", &private))?;
        let inner = private.join("s");
        let bound = UnixListener::bind(&inner).map_err(failed("bind", &inner)).and_then(|listener| {
            fs::set_permissions(&inner, Permissions::from_mode(0o600))
                .map_err(failed("set the mode of", &inner))?;
            fs::rename(&inner, socket).map_err(failed("create", socket))?;
            Ok(listener)
        });
        let _ = fs::remove_dir_all(&private);
        Ok(Listener { listener: bound?, socket: socket.clone() })
    }
}

/// An open socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    socket: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already when somebody cleaned up by hand.
        let _ = fs::remove_file(&self.socket);
    }
}

impl Listener {
    /// Serves clients until it is dropped; their requests go to `calls`. Those that are connected then are
    /// among `clients` until they have their answers.
    pub async fn serve(self, calls: mpsc::Sender<Call>, clients: TaskTracker) {
        let room = Arc::new(Room::new(PLACES, SILENT));
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let place = room.place().await;
                    let (calls, room) = (calls.clone(), Arc::clone(&room));
                    clients.spawn(async move {
                        let _place = place;
                        // A client that goes away in the middle is its own affair.
                        let _ = serve_client(stream, &calls, &room).await;
                    });
                }
                // Out of descriptors, for one: later there may be some.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn serve_client(stream: UnixStream, calls: &mpsc::Sender<Call>, room: &Room) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = tokio::select! {
            biased;
            read = timeout(PATIENCE, read_line(&mut reader, &mut line)) => read,
            () = room.is_wanted() => {
                let message = format!("no request within {SILENT:?}, and others wait for a place");
                return write(&mut writer, &Answer::refuse(Kind::Busy, message)).await;
            }
        };
        match read {
            Err(_) => {
                let answer = Answer::refuse(Kind::BadRequest, format!("no request within {PATIENCE:?}"));
                return write(&mut writer, &answer).await;
            }
            Ok(read) => match read? {
                Line::Whole => {}
                Line::End => return Ok(()),
                Line::TooLong => {
                    let message = format!("a request of more than {MAX_REQUEST} bytes");
                    write(&mut writer, &Answer::refuse(Kind::BadRequest, message)).await?;
                    return writer.shutdown().await;
                }
            },
        }
        let (give, stream) = oneshot::channel();
        let answer = match read_request(&line) {
            Ok(request) => {
                let stream = matches!(request, Request::Capture(_)).then_some(stream);
                ask(calls, request, stream).await
            }
            Err(refusal) => Answer::Error(refusal),
        };
        write(&mut writer, &answer).await?;
        // Nobody waits for it but a capture.
        if !give.is_closed() && matches!(answer, Answer::Ok(_)) {
            let stream = reader.into_inner().reunite(writer).map_err(io::Error::other)?.into_std()?;
            stream.set_nonblocking(false)?;
            let _ = give.send(stream);
            return Ok(());
        }
    }
}

enum Line {
    Whole,
    End,
    TooLong,
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<Line> {
    reader.take(MAX_REQUEST as u64).read_until(b'\n', line).await?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole,
        // Without its newline the last line is a request all the same: `printf '{…}' | nc -U`.
        Some(_) if line.len() < MAX_REQUEST => Line::Whole,
        Some(_) => Line::TooLong,
    })
}

async fn ask(
    calls: &mpsc::Sender<Call>,
    request: Request,
    stream: Option<oneshot::Receiver<std::os::unix::net::UnixStream>>,
) -> Answer {
    let stopping = || Answer::refuse(Kind::Busy, "the daemon is stopping");
    let (sender, receiver) = oneshot::channel();
    if calls.send(Call { request, answer: sender, stream }).await.is_err() {
        return stopping();
    }
    receiver.await.unwrap_or_else(|_| stopping())
}

async fn write(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let line = to_line(answer)?;
    timeout(WRITE_PATIENCE, writer.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// A server that answers every request with its own text, on a socket in a directory of its own.
    fn echo() -> (tempfile::TempDir, PathBuf, Claim) {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("deep/er/vxdp.sock");
        let claim = Claim::new(&socket).expect("the socket is free");
        let listener = claim.listen().expect("a socket");
        let (sender, mut calls) = mpsc::channel::<Call>(4);
        tokio::spawn(listener.serve(sender, TaskTracker::new()));
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let _ = call.answer.send(Answer::with(&call.request));
            }
        });
        (directory, socket, claim)
    }

    async fn exchange(socket: &Path, bytes: Vec<u8>) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("a connection");
        let talk = tokio::task::spawn_blocking(move || {
            // The server may hang up on us before it has read all.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).expect("UTF-8")
        });
        timeout(Duration::from_secs(10), talk).await.expect("in time").expect("no panic")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_on_one_connection_are_answered_in_order() {
        let (_directory, socket, _claim) = echo();
        let requests = [Request::Status, Request::FdbShow { vni: Some(7), macs: Vec::new() }, Request::Down];
        let bytes = requests.iter().flat_map(|request| to_line(request).expect("a line")).collect();
        let answers = exchange(&socket, bytes).await;
        let words: Vec<_> = answers.lines().map(|line| line.contains("\"ok\"")).collect();
        assert_eq!(words, [true; 3], "{answers}");
        assert!(answers.lines().nth(1).is_some_and(|line| line.contains("fdb-show")), "{answers}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn garbage_is_answered_with_an_error() {
        let (_directory, socket, _claim) = echo();
        let answers = exchange(&socket, b"\0\xff\xfe\n\n{}\n[1]\n".to_vec()).await;
        assert_eq!(answers.lines().filter(|line| line.contains("\"error\"")).count(), 4, "{answers}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_endless_request_is_cut_off() {
        let (_directory, socket, _claim) = echo();
        let answers = exchange(&socket, vec![b'x'; MAX_REQUEST * 4]).await;
        // Unread bytes turn the hang-up into a reset, which may overtake the answer.
        assert!(answers.is_empty() || answers.contains("more than"), "{answers}");
        let answers = exchange(&socket, to_line(&Request::Status).expect("a line")).await;
        assert!(answers.contains("\"ok\""), "{answers}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_silent_client_makes_room_and_is_told_why_and_one_that_asks_keeps_its_place() {
        let (_directory, socket, _claim) = echo();
        let connect = || std::os::unix::net::UnixStream::connect(&socket).expect("a connection");
        let status = to_line(&Request::Status).expect("a line");
        let asks = connect();
        let silent: Vec<_> = (1..PLACES).map(|_| connect()).collect();
        let ask = async |stream: &std::os::unix::net::UnixStream| {
            let (mut stream, status) = (stream.try_clone().expect("a descriptor"), status.clone());
            let talk = tokio::task::spawn_blocking(move || {
                stream.write_all(&status).expect("it is open");
                let mut line = String::new();
                io::BufRead::read_line(&mut io::BufReader::new(stream), &mut line).expect("an answer");
                line
            });
            timeout(Duration::from_secs(10), talk).await.expect("in time").expect("no panic")
        };
        // It was the first to come, and is the last to have asked.
        let begun = std::time::Instant::now();
        while begun.elapsed() < SILENT / 2 {
            assert!(ask(&asks).await.contains("\"ok\""));
        }
        let further = connect();
        assert!(ask(&further).await.contains("\"ok\""));
        assert!(ask(&asks).await.contains("\"ok\""));
        let told = silent.into_iter().filter_map(|mut stream| {
            stream.set_nonblocking(true).expect("a socket");
            let mut told = String::new();
            stream.read_to_string(&mut told).ok().map(|_| told)
        });
        let told: Vec<_> = told.collect();
        assert!(told.len() == 1 && told[0].contains("others wait for a place"), "{told:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn clients_that_do_not_read_their_answers_keep_nobody_else_from_theirs() {
        let (_directory, socket, _claim) = echo();
        let macs = vec![vxdp_dataplane::wire::MacAddr::ZERO; 2000];
        let large = to_line(&Request::FdbShow { vni: None, macs }).expect("a line");
        let deaf = |_| {
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("a connection");
            stream.set_write_timeout(Some(Duration::from_millis(20))).expect("a socket");
            // Until the server takes no more, because its answers find no room.
            let sent = (0..100).take_while(|_| stream.write_all(&large).is_ok()).count();
            (stream, sent)
        };
        let deaf: Vec<_> = (0..8).map(deaf).collect();
        assert!(deaf.iter().all(|(_, sent)| *sent < 100), "{deaf:?}");
        let begun = std::time::Instant::now();
        let answer = exchange(&socket, to_line(&Request::Status).expect("a line")).await;
        assert!(answer.contains("\"ok\"") && begun.elapsed() < WRITE_PATIENCE, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn the_socket_is_the_owners_alone_and_replaces_a_stale_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("vxdp.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("a stale socket"));
        let listener = Claim::new(&socket).expect("free").listen().expect("a socket");
        let mode = fs::metadata(&socket).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!socket.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_while_the_first_lives() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("vxdp.sock");
        let first = Claim::new(&socket).expect("free");
        let refused = Claim::new(&socket).expect_err("taken");
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Claim::new(&socket).expect("free again");
    }
}

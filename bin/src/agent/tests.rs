use super::{Session, Wiring};
use crate::status::Status;
use crate::vmm::{Ending, Why};
use motu_proto::{
    Decoder, Exec, ExitStatus, GuestMessage, HostMessage, Message, OutputStream, PROTOCOL_VERSION, WINDOW,
};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

/// What is written, for a test to look at; refuses everything once it is `closed`.
#[derive(Clone, Default)]
struct Sheet {
    text: Arc<Mutex<Vec<u8>>>,
    closed: bool,
}

impl Write for Sheet {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.closed {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.text.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A session with a guest that the test plays.
struct Stage {
    session: Arc<Session>,
    ending: Arc<Ending>,
    ended: Receiver<Status>,
    guest: UnixStream,
    heard: Decoder<HostMessage>,
    stdout: Sheet,
    stderr: Sheet,
}

fn stage(stdout: Sheet) -> Stage {
    let (host, guest) = UnixStream::pair().unwrap();
    let (tell, ended) = mpsc::channel();
    let ending = Ending::new(move |status| {
        let _ = tell.send(status);
    });
    let stderr = Sheet::default();
    let wiring = Wiring {
        from_guest: Box::new(host.try_clone().unwrap()),
        to_guest: Box::new(host),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
    };
    let exec = Exec { argv: vec![b"uname".to_vec()], stdin: true, ..Exec::default() };
    let session = Session::start(exec, wiring, Arc::clone(&ending), || {}).unwrap();
    Stage { session, ending, ended, guest, heard: Decoder::new(), stdout, stderr }
}

impl Stage {
    fn say(&mut self, message: &GuestMessage) {
        let mut frame = Vec::new();
        message.encode(&mut frame).unwrap();
        self.guest.write_all(&frame).unwrap();
    }

    fn hello(&mut self) {
        self.say(&GuestMessage::Hello { version: PROTOCOL_VERSION, agent: "test".into() });
    }

    fn hear(&mut self) -> HostMessage {
        loop {
            if let Some(message) = self.heard.next_message().unwrap() {
                return message;
            }
            let mut buffer = [0; 4096];
            let read = self.guest.read(&mut buffer).unwrap();
            assert!(read > 0, "the host hung up");
            self.heard.feed(&buffer[..read]);
        }
    }
}

#[test]
fn a_command_runs_and_its_output_and_status_come_back() {
    let mut stage = stage(Sheet::default());
    assert!(stage.session.type_in(b"early"), "input before the command runs is held back");
    assert!(!stage.session.signal(2), "there is no command yet to take a signal");
    stage.hello();
    assert!(matches!(stage.hear(), HostMessage::Exec(Exec { id: 1, argv, .. }) if argv == [b"uname".to_vec()]));
    assert_eq!(stage.hear(), HostMessage::Stdin { id: 1, data: b"early".to_vec() });
    stage.session.close_stdin();
    assert_eq!(stage.hear(), HostMessage::StdinClose { id: 1 });
    assert!(stage.session.signal(15));
    assert_eq!(stage.hear(), HostMessage::Signal { id: 1, signo: 15 });
    stage.say(&GuestMessage::Stdout { id: 1, data: b"Linux\n".to_vec() });
    stage.say(&GuestMessage::Stderr { id: 1, data: b"oh\n".to_vec() });
    stage.say(&GuestMessage::Exited { id: 1, status: ExitStatus::Signal(9) });
    assert_eq!(stage.ended.recv(), Ok(Status::Code(137)));
    assert_eq!(*stage.stdout.text.lock().unwrap(), b"Linux\n");
    assert_eq!(*stage.stderr.text.lock().unwrap(), b"oh\n");
    assert!(!stage.session.type_in(b"late"));
}

#[test]
fn a_command_that_cannot_be_run_gives_the_shells_status() {
    let mut stage = stage(Sheet::default());
    stage.hello();
    stage.say(&GuestMessage::Error { id: 1, status: 127, message: "nope: not found".into() });
    assert_eq!(stage.ended.recv(), Ok(Status::Code(127)));
}

#[test]
fn what_breaks_the_protocol_ends_the_run() {
    let cases: [Vec<GuestMessage>; 4] = [
        vec![GuestMessage::Hello { version: PROTOCOL_VERSION + 1, agent: String::new() }],
        vec![GuestMessage::Exited { id: 2, status: ExitStatus::Code(0) }],
        vec![GuestMessage::Hello { version: PROTOCOL_VERSION, agent: String::new() }; 2],
        vec![GuestMessage::Credit { id: 1, bytes: 1 }],
    ];
    for messages in cases {
        let mut stage = stage(Sheet::default());
        for message in &messages {
            stage.say(message);
        }
        assert_eq!(stage.ended.recv(), Ok(Status::Failed), "{messages:?}");
        assert!(matches!(stage.ending.take(), Some(Why::Failed(_))));
    }
}

#[test]
fn output_is_given_back_as_it_is_written() {
    let mut stage = stage(Sheet::default());
    stage.hello();
    stage.hear();
    let chunk = vec![b'x'; 16 * 1024];
    let (mut may_send, mut sent) = (WINDOW as usize, 0);
    while sent < 3 * WINDOW as usize {
        if may_send < chunk.len() {
            match stage.hear() {
                HostMessage::Credit { id: 1, stream: OutputStream::Stdout, bytes } => may_send += bytes as usize,
                other => panic!("{other:?}"),
            }
            continue;
        }
        stage.say(&GuestMessage::Stdout { id: 1, data: chunk.clone() });
        may_send -= chunk.len();
        sent += chunk.len();
    }
    stage.say(&GuestMessage::Exited { id: 1, status: ExitStatus::Code(0) });
    assert_eq!(stage.ended.recv(), Ok(Status::Code(0)));
    assert_eq!(stage.stdout.text.lock().unwrap().len(), sent);
}

#[test]
fn input_waits_for_the_guest_to_take_it() {
    let mut stage = stage(Sheet::default());
    stage.hello();
    stage.hear();
    let session = Arc::clone(&stage.session);
    let typed = std::thread::spawn(move || session.type_in(&vec![b'y'; 3 * WINDOW as usize]));
    let mut taken = 0;
    while taken < 3 * WINDOW as usize {
        let HostMessage::Stdin { data, .. } = stage.hear() else { panic!("only input was sent") };
        taken += data.len();
        stage.say(&GuestMessage::Credit { id: 1, bytes: data.len() as u32 });
    }
    assert!(typed.join().unwrap());
}

#[test]
fn a_reader_that_went_away_is_a_broken_pipe_for_the_command() {
    let mut stage = stage(Sheet { closed: true, ..Sheet::default() });
    stage.hello();
    stage.hear();
    stage.say(&GuestMessage::Stdout { id: 1, data: b"y\n".to_vec() });
    assert_eq!(stage.hear(), HostMessage::Signal { id: 1, signo: 13 });
    stage.say(&GuestMessage::Exited { id: 1, status: ExitStatus::Signal(13) });
    assert_eq!(stage.ended.recv(), Ok(Status::Code(141)));
}

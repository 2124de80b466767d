use super::{Command, Controls, End, Event, Link, LinkError, Output};
use motu_proto::{
    Decoder, Exec, ExitStatus, GuestMessage, HostMessage, MAX_EXECS, Message, OutputStream, PROTOCOL_VERSION, WINDOW,
};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// A link to a guest that the test plays.
struct Stage {
    link: Arc<Link>,
    lost: Receiver<String>,
    guest: UnixStream,
    heard: Decoder<HostMessage>,
}

fn stage() -> Stage {
    let (host, guest) = UnixStream::pair().unwrap();
    let (tell, lost) = mpsc::channel();
    let from_guest = Box::new(host.try_clone().unwrap());
    let lose = move |error: &LinkError| tell.send(error.to_string()).unwrap_or_default();
    let link = Link::start(from_guest, Box::new(host), lose).unwrap();
    Stage { link, lost, guest, heard: Decoder::new() }
}

fn uname() -> Exec {
    Exec { argv: vec![b"uname".to_vec()], stdin: true, ..Exec::default() }
}

impl Stage {
    fn say(&mut self, message: &GuestMessage) {
        let mut frame = Vec::new();
        message.encode(&mut frame).unwrap();
        self.guest.write_all(&frame).unwrap();
    }

    fn hello(&mut self) {
        self.say(&GuestMessage::Hello { version: PROTOCOL_VERSION, agent: "test".into(), unusable: None });
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

    /// Starts a command and has it run.
    fn run(&mut self) -> (u32, Command, Receiver<Event>) {
        let (command, events) = self.link.run(uname());
        let HostMessage::Exec(exec) = self.hear() else { panic!("only a command was sent") };
        self.say(&GuestMessage::Started { id: exec.id });
        assert!(matches!(events.recv().unwrap(), Event::Started));
        (exec.id, command, events)
    }
}

fn end(events: &Receiver<Event>) -> End {
    loop {
        if let Event::Ended(end) = events.recv().unwrap() {
            return end;
        }
    }
}

#[test]
fn a_command_runs_and_its_output_and_status_come_back() {
    let mut stage = stage();
    let (command, events) = stage.link.run(uname());
    assert!(command.type_in(b"early"), "input before the command runs is held back");
    assert!(!command.signal(2), "there is no command yet to take a signal");
    stage.hello();
    assert!(matches!(stage.hear(), HostMessage::Exec(Exec { id: 1, argv, .. }) if argv == [b"uname".to_vec()]));
    assert_eq!(stage.hear(), HostMessage::Stdin { id: 1, data: b"early".to_vec() });
    stage.say(&GuestMessage::Started { id: 1 });
    assert!(matches!(events.recv().unwrap(), Event::Started));
    command.close_stdin();
    assert_eq!(stage.hear(), HostMessage::StdinClose { id: 1 });
    assert!(command.signal(15));
    assert_eq!(stage.hear(), HostMessage::Signal { id: 1, signo: 15 });
    stage.say(&GuestMessage::Stdout { id: 1, data: b"Linux\n".to_vec() });
    stage.say(&GuestMessage::Stderr { id: 1, data: b"oh\n".to_vec() });
    stage.say(&GuestMessage::Exited { id: 1, status: ExitStatus::Signal(9) });
    let said = |event: Event| match event {
        Event::Output(stream, data) => (stream, data),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(events.recv().unwrap()), (OutputStream::Stdout, b"Linux\n".to_vec()));
    assert_eq!(said(events.recv().unwrap()), (OutputStream::Stderr, b"oh\n".to_vec()));
    assert!(matches!(end(&events), End::Exited(ExitStatus::Signal(9))));
    assert!(!command.type_in(b"late") && !command.signal(15));
}

#[test]
fn a_command_that_cannot_be_run_gives_the_shells_status() {
    let mut stage = stage();
    let (_command, events) = stage.link.run(uname());
    stage.hello();
    stage.say(&GuestMessage::Error { id: 1, status: 127, message: "nope:\x1b not found".into() });
    match end(&events) {
        End::Refused { status: 127, message } => assert_eq!(message, "nope:\u{fffd} not found"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_that_fits_no_frame_is_refused_and_others_run() {
    let mut stage = stage();
    let long = Exec { argv: vec![vec![b'x'; motu_proto::MAX_FRAME]], ..Exec::default() };
    let (_early, early) = stage.link.run(long.clone());
    stage.hello();
    assert!(matches!(end(&early), End::Refused { status: 125, message } if message.contains("too long")));
    let (id, _command, _events) = stage.run();
    let (_late, late) = stage.link.run(long);
    assert!(matches!(end(&late), End::Refused { status: 125, .. }));
    assert_eq!(id, 2);
}

#[test]
fn many_commands_run_at_once_and_one_that_nobody_reads_holds_up_no_other() {
    let mut stage = stage();
    stage.hello();
    let (flood, _flooding, flooded) = stage.run();
    for _ in 0..WINDOW / 16384 {
        stage.say(&GuestMessage::Stdout { id: flood, data: vec![b'x'; 16384] });
    }
    let others: Vec<_> = (1..MAX_EXECS).map(|_| stage.run()).collect();
    let (_one_more, refused) = stage.link.run(uname());
    assert!(matches!(end(&refused), End::Refused { status: 125, message } if message.contains("the most")));
    for (id, ..) in others.iter().rev() {
        stage.say(&GuestMessage::Exited { id: *id, status: ExitStatus::Code(*id as u8) });
    }
    for (id, _, events) in &others {
        assert!(matches!(end(events), End::Exited(ExitStatus::Code(code)) if code == *id as u8));
    }
    let held = flooded.try_iter().filter(|event| matches!(event, Event::Output(..))).count();
    assert_eq!(held, (WINDOW / 16384) as usize);
    stage.run();
}

#[test]
fn what_breaks_the_protocol_ends_all_commands() {
    let hello_of = |version, unusable: Option<&str>| {
        let unusable = unusable.map(str::to_owned);
        GuestMessage::Hello { version, agent: String::new(), unusable }
    };
    let hello = || hello_of(PROTOCOL_VERSION, None);
    let data = vec![0; motu_proto::MAX_DATA];
    let flood = || GuestMessage::Stdout { id: 1, data: data.clone() };
    let cases: [(Vec<GuestMessage>, &str); 6] = [
        (vec![hello_of(PROTOCOL_VERSION + 1, None)], "version"),
        (vec![GuestMessage::Exited { id: 2, status: ExitStatus::Code(0) }], "command 2"),
        (vec![hello(), hello()], "anew"),
        (vec![GuestMessage::Credit { id: 1, bytes: 1 }], "credit"),
        (vec![hello_of(PROTOCOL_VERSION, Some("no disk"))], "no disk"),
        (std::iter::repeat_with(flood).take(5).collect(), "window"),
    ];
    for (messages, says) in cases {
        let mut stage = stage();
        let (_command, events) = stage.link.run(uname());
        for message in &messages {
            stage.say(message);
        }
        let lost = stage.lost.recv().unwrap();
        assert!(lost.contains(says), "{messages:?}: {lost}");
        assert!(matches!(end(&events), End::Lost(_)), "{messages:?}");
        let (_late, late) = stage.link.run(uname());
        assert!(matches!(end(&late), End::Lost(_)));
    }
}

#[test]
fn the_guest_is_asked_to_end_only_when_there_is_an_agent() {
    let mut stage = stage();
    assert!(!stage.link.shut_down(Duration::from_secs(1)));
    assert!(matches!(stage.link.wait_until_ready(Some(Duration::from_millis(1))), Err(LinkError::Silent)));
    stage.hello();
    stage.link.wait_until_ready(None).unwrap();
    stage.run();
    assert!(stage.link.shut_down(Duration::from_millis(1500)));
    assert_eq!(stage.hear(), HostMessage::Shutdown { grace: 1500 });
}

#[test]
fn output_is_given_back_as_it_is_passed_on() {
    let mut stage = stage();
    stage.hello();
    let (id, command, events) = stage.run();
    let sheet = Sheet::default();
    let mut output = Output::to(Box::new(sheet.clone()), Box::new(Sheet::default()));
    let reader = std::thread::spawn(move || {
        for event in events {
            match event {
                Event::Output(stream, data) => output.pass_on(stream, &data, &command).unwrap(),
                Event::Ended(_) => return,
                other => panic!("{other:?}"),
            }
        }
    });
    let chunk = vec![b'x'; 16 * 1024];
    let (mut may_send, mut sent) = (WINDOW as usize, 0);
    while sent < 3 * WINDOW as usize {
        if may_send < chunk.len() {
            match stage.hear() {
                HostMessage::Credit { stream: OutputStream::Stdout, bytes, .. } => may_send += bytes as usize,
                other => panic!("{other:?}"),
            }
            continue;
        }
        stage.say(&GuestMessage::Stdout { id, data: chunk.clone() });
        may_send -= chunk.len();
        sent += chunk.len();
    }
    stage.say(&GuestMessage::Exited { id, status: ExitStatus::Code(0) });
    reader.join().unwrap();
    assert_eq!(sheet.text.lock().unwrap().len(), sent);
}

#[test]
fn input_waits_for_the_guest_to_take_it() {
    let mut stage = stage();
    stage.hello();
    let (id, command, events) = stage.run();
    let typed = std::thread::spawn(move || command.type_in(&vec![b'y'; 3 * WINDOW as usize]));
    let mut taken = 0;
    while taken < 3 * WINDOW as usize {
        let HostMessage::Stdin { data, .. } = stage.hear() else { panic!("only input was sent") };
        taken += data.len();
        stage.say(&GuestMessage::Credit { id, bytes: data.len() as u32 });
    }
    assert!(typed.join().unwrap());
    assert!(matches!(events.recv().unwrap(), Event::Room(_)));
}

#[test]
fn a_reader_that_went_away_is_a_broken_pipe_for_the_command() {
    let mut stage = stage();
    stage.hello();
    let (id, command, _events) = stage.run();
    let closed = Sheet { closed: true, ..Sheet::default() };
    let mut output = Output::to(Box::new(closed), Box::new(Sheet::default()));
    output.pass_on(OutputStream::Stdout, b"y\n", &command).unwrap();
    assert_eq!(stage.hear(), HostMessage::Signal { id, signo: 13 });
}

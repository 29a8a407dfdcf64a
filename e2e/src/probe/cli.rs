//! Command line of the helper binary `probe`.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Proto,
    download::{self, half_close},
    load::{self, Load},
    once::{Question, ask, ping},
    server::{Listener, start},
    talk::{self, Talk},
};

const USAGE: &str = "\
usage:
  probe serve --name NAME [--tcp ADDR:PORT]... [--udp ADDR:PORT]... [--sctp ADDR:PORT]...
  probe ask --to ADDR:PORT [--proto tcp|udp|sctp] [--from ADDR:PORT] [--timeout MS]
  probe ping --to ADDR [--timeout MS]
  probe load --to ADDR:PORT... [--from ADDR]... [--first-port P] [--ports N] [--rate N] [--workers N]
             [--timeout MS] [--longest MS]
  probe talk --to ADDR:PORT... [--from ADDR]... [--connections N] [--every MS] [--timeout MS]
  probe half-close --to ADDR:PORT [--lines N] [--pause MS] [--timeout MS]
Results are JSON on standard output; load and talk end when standard input does.";

/// Arguments: a subcommand and `--name value` pairs in any order.
struct Arguments(Vec<(String, String)>);

impl Arguments {
    fn parse(words: &[String]) -> Result<Arguments> {
        let pairs = words.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with("--") => Ok((name[2..].to_owned(), value.clone())),
            _ => bail!("{pair:?} is not an option with its value\n{USAGE}"),
        });
        Ok(Arguments(pairs.collect::<Result<_>>()?))
    }

    fn all<T: std::str::FromStr>(&self, name: &str) -> Result<Vec<T>>
    where
        T::Err: std::fmt::Display,
    {
        let values = self.0.iter().filter(|(given, _)| given == name);
        values
            .map(|(_, text)| text.parse().map_err(|error| anyhow::anyhow!("--{name} {text}: {error}")))
            .collect()
    }

    fn one<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        Ok(self.all(name)?.pop())
    }

    fn required<T: std::str::FromStr>(&self, name: &str) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        self.one(name)?.with_context(|| format!("--{name} is missing\n{USAGE}"))
    }

    fn milliseconds(&self, name: &str, default: Duration) -> Result<Duration> {
        Ok(self.one(name)?.map_or(default, Duration::from_millis))
    }
}

/// Runs the subcommand in `words[0]`.
pub fn run(words: &[String]) -> Result<()> {
    let (command, rest) = words.split_first().context(USAGE)?;
    let arguments = Arguments::parse(rest)?;
    match command.as_str() {
        "serve" => serve(&arguments),
        "ask" => print(&ask(&Question {
            proto: arguments.one("proto")?.unwrap_or(Proto::Tcp),
            to: arguments.required("to")?,
            from: arguments.one("from")?,
            timeout: arguments.milliseconds("timeout", Duration::from_secs(5))?,
        })),
        "ping" => print(&ping(
            arguments.required("to")?,
            arguments.milliseconds("timeout", Duration::from_secs(5))?,
        )),
        "load" => {
            let load = Load::start(&load_settings(&arguments)?);
            wait_for_end_of_input(|| load.is_over());
            print(&load.stop())
        }
        "talk" => {
            let talk = Talk::start(&talk_settings(&arguments)?);
            wait_for_end_of_input(|| false);
            print(&talk.stop())
        }
        "half-close" => print(&half_close(&download::Settings {
            to: arguments.required("to")?,
            lines: arguments.one("lines")?.unwrap_or(20),
            pause: arguments.milliseconds("pause", Duration::from_millis(100))?,
            timeout: arguments.milliseconds("timeout", Duration::from_secs(10))?,
        })),
        _ => bail!("unknown command {command:?}\n{USAGE}"),
    }
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// Listens, says `ready`, and serves until it is killed.
fn serve(arguments: &Arguments) -> Result<()> {
    let mut listeners = Vec::new();
    for (name, proto) in [("tcp", Proto::Tcp), ("udp", Proto::Udp), ("sctp", Proto::Sctp)] {
        listeners.extend(arguments.all(name)?.into_iter().map(|at| Listener { proto, at }));
    }
    start(&arguments.required::<String>("name")?, &listeners)?;
    println!("ready");
    io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

fn load_settings(arguments: &Arguments) -> Result<load::Settings> {
    let mut settings = load::Settings::new(&arguments.all("to")?, &arguments.all("from")?);
    anyhow::ensure!(!settings.targets.is_empty(), "--to is missing\n{USAGE}");
    settings.ports.0 = arguments.one("first-port")?.unwrap_or(settings.ports.0);
    settings.ports.1 = arguments.one("ports")?.unwrap_or(settings.ports.1);
    settings.rate = arguments.one("rate")?.unwrap_or(settings.rate);
    settings.workers = arguments.one("workers")?.unwrap_or(settings.workers).max(1);
    settings.timeout = arguments.milliseconds("timeout", settings.timeout)?;
    settings.longest = arguments.milliseconds("longest", settings.longest)?;
    Ok(settings)
}

fn talk_settings(arguments: &Arguments) -> Result<talk::Settings> {
    let connections = arguments.one("connections")?.unwrap_or(100);
    let mut settings = talk::Settings::new(&arguments.all("to")?, &arguments.all("from")?, connections);
    anyhow::ensure!(!settings.targets.is_empty(), "--to is missing\n{USAGE}");
    settings.every = arguments.milliseconds("every", settings.every)?;
    settings.timeout = arguments.milliseconds("timeout", settings.timeout)?;
    Ok(settings)
}

/// Blocks until our parent closes our standard input, or `over` says that there is nothing left to do.
fn wait_for_end_of_input(over: impl Fn() -> bool) {
    let reader = std::thread::spawn(|| {
        let mut buffer = [0; 64];
        while io::stdin().read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    while !reader.is_finished() && !over() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

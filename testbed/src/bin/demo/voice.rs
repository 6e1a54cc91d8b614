//! What the demo says: titles, commands, and lines with the time since it started.

use std::fmt::{self, Display};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Error;

/// Columns before a line's text.
const MARGIN: &str = "           ";
/// Longest line of text.
const WIDTH: usize = 100;

/// A check that failed.
#[derive(Debug)]
pub struct Unmet {
    pub expected: String,
    pub seen: String,
    /// What the controller said last.
    pub log: String,
}

impl Unmet {
    pub fn new(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.into(),
            log: String::new(),
        }
    }
}

impl Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected: {}; seen: {}", self.expected, self.seen)
    }
}

impl std::error::Error for Unmet {}

/// Fails unless `holds`.
///
/// # Errors
/// [`Unmet`].
pub fn check(
    holds: bool,
    expected: impl Into<String>,
    seen: impl Into<String>,
) -> Result<(), Unmet> {
    if holds {
        Ok(())
    } else {
        Err(Unmet::new(expected, seen))
    }
}

/// Speaks on stdout.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    start: Instant,
}

impl Voice {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Time since the demo started.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Begins a part of the story.
    pub fn title(&self, text: impl Display) {
        print(&format!("\n{text}\n"));
    }

    /// Something true, and when.
    pub fn line(&self, text: impl Display) {
        let time = self.elapsed().as_secs_f64();
        print(&format!("{time:>7.1} s  {}\n", wrapped(&text.to_string())));
    }

    /// More about the line before.
    pub fn more(&self, text: impl Display) {
        print(&format!("{MARGIN}{}\n", wrapped(&text.to_string())));
    }

    /// A command that was run, as one would type it.
    pub fn command(&self, text: impl Display) {
        print(&format!("{MARGIN}$ {text}\n"));
    }

    /// The output of a command, as it is.
    pub fn output(&self, text: &str) {
        for line in text.lines() {
            print(format!("{MARGIN}{line}").trim_end());
            print("\n");
        }
    }

    /// Text that grows where it stands.
    pub fn stream(&self, speaker: &str) -> Streamed {
        print(&format!("{MARGIN}{speaker}"));
        Streamed {
            indent: MARGIN.len() + speaker.len(),
            column: 0,
        }
    }

    pub fn failed(&self, unmet: &Unmet) {
        self.title("This is not as it should be");
        self.line(format_args!("expected: {}", unmet.expected));
        self.more(format_args!("seen: {}", unmet.seen));
        if !unmet.log.is_empty() {
            self.more("the controller's last lines:");
            self.output(&unmet.log);
        }
    }

    pub fn error(&self, error: &Error) {
        print(&format!("\nerror: {error:#}\n"));
    }

    pub fn logs(&self, folder: &Path) {
        self.more(format_args!("logs are in {}", folder.display()));
    }
}

/// A text that comes in pieces.
pub struct Streamed {
    indent: usize,
    column: usize,
}

impl Streamed {
    /// Prints a piece at once.
    pub fn piece(&mut self, text: &str) {
        let mut out = String::new();
        for character in text.chars() {
            let wide = self.column >= WIDTH && character == ' ';
            if wide || character == '\n' {
                out.push('\n');
                out.push_str(&" ".repeat(self.indent));
                self.column = 0;
            } else {
                out.push(character);
                self.column += 1;
            }
        }
        print(&out);
    }

    pub fn end(self) {
        print("\n");
    }
}

/// Breaks a long text into lines that stand under one another.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.last().is_some_and(|line| {
            !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH
        });
        if full {
            lines.push(word.to_owned());
        } else if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{MARGIN}"))
}

/// A reader that has enough is no reason to stop.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    written.and_then(|()| stdout.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = wrapped(&"word ".repeat(30));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines.iter().all(|line| line.len() < WIDTH + MARGIN.len()));
        assert!(lines[1].starts_with(MARGIN), "{text}");
    }
}

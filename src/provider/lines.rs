//! Splits a byte stream into lines of bounded length, and lines into server-sent events.

use bytes::{Buf, Bytes, BytesMut};

/// A line is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// Cuts lines at LF, CRLF or CR, as server-sent events demand (NDJSON only has LF).
#[derive(Debug)]
pub struct Lines {
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line end.
    searched: usize,
    limit: usize,
    /// The last line ended with CR: an LF that follows belongs to it.
    after_cr: bool,
}

impl Lines {
    /// Lines of at most `limit` bytes, without their end.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            limit,
            after_cr: false,
        }
    }

    /// Adds what came in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, without its end.
    ///
    /// # Errors
    /// [`LineTooLong`], also for a line whose end has not come yet.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        if self.after_cr && !self.buffer.is_empty() {
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
            self.after_cr = false;
        }
        let rest = &self.buffer[self.searched..];
        let Some(found) = rest.iter().position(|&byte| byte == b'\n' || byte == b'\r') else {
            self.searched = self.buffer.len();
            return if self.searched > self.limit {
                Err(LineTooLong)
            } else {
                Ok(None)
            };
        };
        let length = self.searched + found;
        self.searched = 0;
        if length > self.limit {
            return Err(LineTooLong);
        }
        let line = self.buffer.split_to(length).freeze();
        self.after_cr = self.buffer[0] == b'\r';
        self.buffer.advance(1);
        Ok(Some(line))
    }

    /// What is left at the end of the stream: a last line without an end.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.searched = 0;
        let rest = self.buffer.split().freeze();
        (!rest.is_empty()).then_some(rest)
    }
}

/// Puts the `data` of server-sent events together (WHATWG HTML, "event stream interpretation").
#[derive(Debug, Default)]
pub struct Sse {
    data: Vec<u8>,
    lines: usize,
    started: bool,
}

impl Sse {
    /// Takes a line; answers the data of the event that it completes. The `error` field, which
    /// llama.cpp once used for errors, is taken as data; other fields and comments are not needed here.
    pub fn line(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let line = if self.started {
            line
        } else {
            self.started = true;
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        };
        if line.is_empty() {
            let complete = self.lines > 0;
            self.lines = 0;
            let data = std::mem::take(&mut self.data);
            return complete.then_some(data);
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        if field == b"data" || field == b"error" {
            if self.lines > 0 {
                self.data.push(b'\n');
            }
            self.lines += 1;
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        None
    }

    /// Bytes of the event that is not complete yet.
    pub fn pending(&self) -> usize {
        self.data.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(1 << 16);
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next_line().expect("short lines") {
                all.push(line.to_vec());
            }
        }
        all.extend(lines.rest().map(|line| line.to_vec()));
        all
    }

    #[test]
    fn all_three_line_ends_are_known() {
        assert_eq!(
            split(&[b"a\nb\r\nc\rd\r", b"\ne"]),
            [b"a", b"b", b"c", b"d", b"e"]
        );
        assert_eq!(split(&[b"a\r\r\nb\n\n"]), [&b"a"[..], b"", b"b", b""]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_even_before_its_end() {
        let mut lines = Lines::new(4);
        lines.push(b"abcd\nabcde");
        assert_eq!(lines.next_line(), Ok(Some(Bytes::from_static(b"abcd"))));
        assert_eq!(lines.next_line(), Err(LineTooLong));
        let mut lines = Lines::new(4);
        lines.push(b"abcde\n");
        assert_eq!(lines.next_line(), Err(LineTooLong));
    }

    #[test]
    fn events_are_put_together_and_comments_left_out() {
        let mut sse = Sse::default();
        let text = b"\xef\xbb\xbf: ping\n\nevent: x\ndata: a\ndata:b\n\nid: 1\n\ndata\n\n";
        let mut lines = Lines::new(100);
        lines.push(text);
        let mut events = Vec::new();
        while let Some(line) = lines.next_line().expect("short lines") {
            events.extend(sse.line(&line));
        }
        assert_eq!(events, [&b"a\nb"[..], b""]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_network_cuts_them(
            text in "[ab\r\n]{0,40}", cuts in proptest::collection::vec(0usize..40, 0..6)
        ) {
            let text = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            pieces.push(&text[from..]);
            prop_assert_eq!(split(&pieces), split(&[text]));
        }
    }
}

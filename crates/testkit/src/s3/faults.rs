//! What can be wrong with an S3 server's answer, and when: the rules of an [`super::S3Proxy`].

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::net::http::Message;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Creates an object.
    Put,
    /// Reads an object, or a range of it.
    Get,
    /// Looks an object up.
    Head,
    /// Reads a page of a listing.
    List,
    /// Removes an object.
    Delete,
}

/// One way to answer wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum S3Fault {
    /// An error with this status; the server never hears of the request.
    Before(u16),
    /// An error with this status, though the server did what it was asked.
    After(u16),
    /// The connection ends without an answer; the server never hears of the request.
    HangupBefore,
    /// The connection ends without an answer, though the server did what it was asked.
    HangupAfter,
    /// "200 OK" with an error document; the server never hears of the request.
    ErrorIn200,
    /// The connection ends in the middle of the body.
    CutBody,
    /// The body lacks its end, and its length says so.
    ShortBody,
    /// One bit of the body is another.
    FlipBody,
    /// The body is that of another object that was read before; the right one where there was none of that length.
    OtherBody,
    /// A listing names an object that is not there: the last one that the rule's text fits again, by another name.
    GhostEntry,
    /// A listing lacks one object, the last of those that the rule's text fits.
    MissingEntry,
}

impl S3Fault {
    /// What can pass by itself, for any kind of request: none of these is more than a failure.
    pub const PASSING: [S3Fault; 14] = [
        S3Fault::Before(500),
        S3Fault::Before(503),
        S3Fault::Before(408),
        S3Fault::Before(409),
        S3Fault::Before(429),
        S3Fault::After(500),
        S3Fault::After(503),
        S3Fault::After(408),
        S3Fault::After(409),
        S3Fault::After(429),
        S3Fault::HangupBefore,
        S3Fault::HangupAfter,
        S3Fault::ErrorIn200,
        S3Fault::CutBody,
    ];

    /// Whether it can be done to such a request.
    pub fn suits(self, op: Op) -> bool {
        match self {
            S3Fault::CutBody | S3Fault::ShortBody | S3Fault::FlipBody => matches!(op, Op::Get | Op::List),
            S3Fault::OtherBody => op == Op::Get,
            S3Fault::GhostEntry | S3Fault::MissingEntry => op == Op::List,
            S3Fault::ErrorIn200 => matches!(op, Op::Put | Op::List | Op::Delete),
            _ => true,
        }
    }

    pub(super) fn hands_on(self) -> bool {
        !matches!(self, S3Fault::Before(_) | S3Fault::HangupBefore | S3Fault::ErrorIn200)
    }
}

/// When which fault happens.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: S3Fault,
    op: Option<Op>,
    part: String,
    skip: u32,
    times: u32,
    one_in: u32,
}

impl Rule {
    /// `fault` on every request that it suits.
    pub fn new(fault: S3Fault) -> Rule {
        Rule {
            fault,
            op: None,
            part: String::new(),
            skip: 0,
            times: u32::MAX,
            one_in: 1,
        }
    }

    /// Only on requests of this kind.
    #[must_use]
    pub fn on(mut self, op: Op) -> Rule {
        self.op = Some(op);
        self
    }

    /// Only on keys (of a listing: prefixes) with this text in them. For entries of a listing: on pages with such.
    #[must_use]
    pub fn like(mut self, part: &str) -> Rule {
        part.clone_into(&mut self.part);
        self
    }

    /// Not on the first `skip` of them.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Rule {
        self.skip = skip;
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, times: u32) -> Rule {
        self.times = times;
        self
    }

    /// Only on one in so many, by the proxy's seed.
    #[must_use]
    pub fn one_in(mut self, one_in: u32) -> Rule {
        self.one_in = one_in.max(1);
        self
    }

    fn about_entries(&self) -> bool {
        matches!(self.fault, S3Fault::GhostEntry | S3Fault::MissingEntry)
    }

    /// Whether it strikes this request; it has counted it then.
    pub(super) fn strikes(&mut self, op: Op, key: &str, rng: &mut StdRng) -> Option<(S3Fault, String)> {
        let meant = self.op.is_none_or(|wanted| wanted == op) && self.fault.suits(op);
        let here = self.about_entries() || key.contains(&self.part);
        if !meant || !here || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if !rng.random_ratio(1, self.one_in) {
            return None;
        }
        // What is about entries counts when it has found one.
        if !self.about_entries() && self.times != u32::MAX {
            self.times -= 1;
        }
        Some((self.fault, self.part.clone()))
    }
}

/// An error of S3's with the code that goes with the status.
pub(super) fn error(status: u16, op: Op) -> Message {
    let code = match status {
        403 => "AccessDenied",
        404 => "NoSuchKey",
        408 => "RequestTimeout",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
    );
    let mut answer = Message {
        first: format!("HTTP/1.1 {status} {code}"),
        headers: vec![("Content-Type".to_owned(), "application/xml".to_owned())],
        body: if op == Op::Head {
            Vec::new()
        } else {
            document.into_bytes()
        },
    };
    answer.set("Content-Length", &answer.body.len().to_string());
    answer
}

/// "200 OK" and an ETag, with a document that says the opposite.
pub(super) fn error_in_200(op: Op) -> Message {
    let mut answer = error(500, op);
    answer.first = "HTTP/1.1 200 OK".to_owned();
    answer.set("ETag", "\"d41d8cd98f00b204e9800998ecf8427e\"");
    answer
}

/// Takes away the last entry of a listing with `part` in its key; false where there is none.
pub(super) fn remove_entry(listing: &mut Message, part: &str) -> bool {
    change_entry(listing, part, |_| String::new())
}

/// Names the last entry of a listing with `part` in its key a second time, by a name that is not there: another last
/// digit, so that a hash still looks like one.
pub(super) fn add_ghost(listing: &mut Message, part: &str) -> bool {
    change_entry(listing, part, |entry| {
        let Some((before, after)) = entry.split_once("</Key>") else {
            return entry.to_owned();
        };
        let name = match before.strip_suffix('0') {
            Some(rest) => format!("{rest}1"),
            None => before[..before.len() - 1].to_owned() + "0",
        };
        format!("{entry}{name}</Key>{after}")
    })
}

fn change_entry(listing: &mut Message, part: &str, change: impl FnOnce(&str) -> String) -> bool {
    const OPEN: &str = "<Contents>";
    const CLOSE: &str = "</Contents>";
    let text = String::from_utf8_lossy(&listing.body).into_owned();
    let mut found = None;
    let mut at = 0;
    while let Some(begin) = text[at..].find(OPEN).map(|begin| at + begin) {
        let Some(end) = text[begin..].find(CLOSE).map(|end| begin + end + CLOSE.len()) else {
            break;
        };
        if text[begin..end].contains(part) {
            found = Some(begin..end);
        }
        at = end;
    }
    let Some(entry) = found else {
        return false;
    };
    let changed = change(&text[entry.clone()]);
    let text = [&text[..entry.start], &changed, &text[entry.end..]].concat();
    listing.body = text.into_bytes();
    listing.set("Content-Length", &listing.body.len().to_string());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn listing(keys: &[&str]) -> Message {
        let entry = |key: &&str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let entries: String = keys.iter().map(entry).collect();
        Message {
            first: "HTTP/1.1 200 OK".to_owned(),
            headers: Vec::new(),
            body: format!("<ListBucketResult>{entries}</ListBucketResult>").into_bytes(),
        }
    }

    #[test]
    fn entries_of_a_listing_come_and_go() {
        let mut page = listing(&["wal/a", "wal/b", "x/c"]);
        assert!(remove_entry(&mut page, "wal/"));
        assert_eq!(page.body, listing(&["wal/a", "x/c"]).body);
        assert!(!remove_entry(&mut page, "nothing"));
        assert!(add_ghost(&mut page, "wal/a"));
        assert_eq!(page.body, listing(&["wal/a", "wal/0", "x/c"]).body);
    }

    #[test]
    fn a_rule_strikes_when_it_says() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut rule = Rule::new(S3Fault::Before(500))
            .on(Op::Put)
            .like("wal/")
            .after(1)
            .times(2);
        let mut strikes = |op, key| rule.strikes(op, key, &mut rng).is_some();
        let asked = [
            (Op::Get, "wal/a"),
            (Op::Put, "x"),
            (Op::Put, "wal/a"),
            (Op::Put, "wal/b"),
            (Op::Put, "wal/c"),
        ];
        assert_eq!(
            asked.map(|(op, key)| strikes(op, key)),
            [false, false, false, true, true]
        );
        assert!(!strikes(Op::Put, "wal/d"));
        let mut rare = Rule::new(S3Fault::HangupAfter).one_in(4);
        let struck = (0..400)
            .filter(|_| rare.strikes(Op::Get, "k", &mut rng).is_some())
            .count();
        assert!((60..140).contains(&struck), "{struck}");
        assert!(Rule::new(S3Fault::GhostEntry).strikes(Op::Put, "k", &mut rng).is_none());
    }
}

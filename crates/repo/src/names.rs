//! Names of objects and their alternates (docs/format.md, section 1).
//!
//! Invariant: wherever the format binds a name (signatures, seals), it is the *logical* one, without `.r1`, `.r2`, ….
//! No logical name ends in such a suffix, so that taking it off twice is taking it off once.

use pgkeep_store::ObjectName;

/// How many alternates of a bad object a reader tries.
pub const ALTERNATES_MAX: u32 = 4;

/// The name that signatures and seals bind: `name` without its alternate suffix.
pub fn logical(name: &ObjectName) -> ObjectName {
    match split_alternate(name.as_str()) {
        (_, 0) => name.clone(),
        (logical, _) => ObjectName::new(logical).expect("a name without its suffix is a name"),
    }
}

/// The `number`th alternate of a logical name, from 1 up; `None` where there is no room for it: in a name that somebody
/// else made up.
pub fn alternate(logical: &ObjectName, number: u32) -> Option<ObjectName> {
    ObjectName::new(format!("{logical}.r{number}")).ok()
}

/// The logical name and the number of the alternate, 0 for the object itself.
pub fn split_alternate(name: &str) -> (&str, u32) {
    let split = name.rsplit_once(".r").and_then(|(logical, digits)| {
        let plain = !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|b| b.is_ascii_digit());
        // What is left must be a name: anybody's object may be called `..r1`.
        let named = !matches!(logical.rsplit('/').next(), None | Some("" | "." | ".."));
        let counts = plain && named && !digits.starts_with('0');
        counts
            .then(|| digits.parse().ok())
            .flatten()
            .map(|number| (logical, number))
    });
    split.unwrap_or((name, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alternate_suffix_comes_off_and_nothing_else_does() {
        for (name, logical, number) in [
            ("a/b", "a/b", 0),
            ("a/b.r1", "a/b", 1),
            ("a/b.p0001.r12", "a/b.p0001", 12),
            ("a/b.r0", "a/b.r0", 0),
            ("a/b.r01", "a/b.r01", 0),
            ("a/b.r", "a/b.r", 0),
            ("a/.r1", "a/.r1", 0),
            ("..r1", "..r1", 0),
            ("a/..r1", "a/..r1", 0),
            ("a/...r1", "a/...r1", 0),
            ("a/....r1", "a/...", 1),
            ("a.r1/b", "a.r1/b", 0),
        ] {
            assert_eq!(split_alternate(name), (logical, number), "{name}");
            let object = ObjectName::new(name).unwrap();
            assert_eq!(super::logical(&object).as_str(), logical);
            let again = alternate(&object, 2).unwrap();
            assert_eq!(split_alternate(again.as_str()), (name, 2));
        }
    }
}

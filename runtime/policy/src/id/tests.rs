use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn place(sequence: u64) -> Place {
    Place { stream: "IN".into(), sequence, stored_ms: 5 }
}

fn token_of(prefix: &str, handler: &str, kind: IdKind, scope: &Scope, id: &str, place: Option<&Place>) -> Token {
    Token::of(prefix, handler, &Identity { kind, scope, id, place })
}

#[test]
fn every_part_of_an_identity_changes_all_ids() {
    use IdKind::{Given, Key, Position};
    let texts = ["", "a", "b"].map(str::to_owned);
    let scopes = [Scope::Whole].into_iter().chain(
        texts
            .iter()
            .flat_map(|text| [Scope::Source(text.clone()), Scope::Queue(text.clone()), Scope::Key(text.clone())]),
    );
    let places = [None, Some(place(1)), Some(place(2)), Some(Place { stored_ms: 6, ..place(1) })];
    let mut ids = BTreeSet::new();
    let mut count = 0;
    for scope in scopes {
        for kind in [Given, Position, Key] {
            for (prefix, handler, id) in [("p", "h", "e"), ("q", "h", "e"), ("p", "g", "e"), ("p", "h", "f")] {
                for place in &places {
                    let token = token_of(prefix, handler, kind, &scope, id, place.as_ref());
                    let of_letters = [token.dead_letter("IN:1@5", 1), token.dead_letter("IN:1@5", 2)];
                    ids.extend(of_letters);
                    ids.extend([token.output(0), token.output(1), token.retry("IN:1@5"), token.retry("IN:1@6")]);
                    ids.insert(token.as_str().to_owned());
                    count += 7;
                }
            }
        }
    }
    assert_eq!(ids.len(), count);
    assert!(ids.iter().all(|id| id.len() == LENGTH && Token::read(id).is_some()));
}

#[test]
fn ids_are_the_same_in_every_release() {
    let token = token_of("tidemill", "h", IdKind::Given, &Scope::Whole, "e1", None);
    assert_eq!(token.as_str(), "kuk3wefoepeijiysuqx4hbuyrq");
    assert_eq!(token.output(0), "6papyhc3kkm72xuc65hpf7ows4");
    assert_eq!(legacy::marker(None, "e1", "h", "IN:1:5", 0), "vx5lfvnb6ez6x2ghc5u5t5n7n4");
    assert_eq!(of_handler("h", "leader"), "4nswtrdjtsgsr3yujvrm3gaa5m");
}

#[test]
fn what_is_no_token_is_not_read_as_one() {
    let token = token_of("tidemill", "h", IdKind::Given, &Scope::Whole, "e1", None);
    assert_eq!(Token::read(token.as_str()), Some(token.clone()));
    for odd in ["", "a", &token.as_str().to_uppercase(), &format!("{}.", &token.as_str()[1..]), &"0".repeat(26)] {
        assert_eq!(Token::read(odd), None, "{odd:?}");
    }
}

proptest! {
    /// What a producer chooses never equals an id that is made of a place, and nobody's parts run into each other.
    #[test]
    fn ids_that_are_chosen_never_equal_those_that_are_derived(
        stream in "[A-Z@:0-9]{1,8}", sequence: u64, stored_ms: u64, scope in ".{0,12}", source: bool,
    ) {
        let place = Place { stream, sequence, stored_ms };
        let by_position = token_of("p", "h", IdKind::Position, &Scope::Whole, &place.id(), None);
        let scope = if source { Scope::Source(scope) } else { Scope::Queue(scope) };
        let chosen = [by_position.as_str(), &by_position.output(0), &place.id()].map(|id| {
            [Scope::Whole, scope.clone()].map(|scope| token_of("p", "h", IdKind::Given, &scope, id, None))
        });
        let derived = [by_position.clone(), Token(by_position.output(0))];
        for token in chosen.as_flattened() {
            prop_assert!(!derived.contains(token) && token.output(0) != by_position.output(0));
        }
    }

    #[test]
    fn parts_cannot_run_into_each_other(a in ".{0,6}", b in ".{0,6}", c in ".{1,6}") {
        let one = token_of("p", "h", IdKind::Given, &Scope::Source(a.clone()), &format!("{b}{c}"), None);
        let two = token_of("p", "h", IdKind::Given, &Scope::Source(format!("{a}{b}")), &c, None);
        prop_assert_eq!(one == two, b.is_empty());
        let one = token_of(&a, &format!("{b}{c}"), IdKind::Given, &Scope::Whole, "e", None);
        let two = token_of(&format!("{a}{b}"), &c, IdKind::Given, &Scope::Whole, "e", None);
        prop_assert_eq!(one == two, b.is_empty());
    }

    #[test]
    fn fractions_lie_between_zero_and_one(id in ".*", attempt in 1u32..) {
        prop_assert!((0.0..1.0).contains(&fraction(&id, "h", attempt)));
        prop_assert!((0.0..1.0).contains(&lot(&id)));
    }
}

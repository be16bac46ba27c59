//! JSON as the validator sees it, with a measure: how often it may look, and how many offences it may find.
//!
//! Payloads are untrusted, and a schema that refers to itself below `anyOf` may take a number of steps that is
//! exponential in the depth of a payload. The validator cannot be interrupted, so what it looks at ends instead:
//! once the measure is used up, every value looks like `null` and every list and object ends. What the validator
//! then says means nothing any more, and [`Walk::is_cut`] says so.

use std::borrow::Cow;
use std::cell::Cell;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp, unique};
use serde_json::{Map, Number, Value};

/// What a value looks like when the measure is used up.
static NOTHING: Value = Value::Null;
/// What an offence carries in place of the value it is about, of which the validator would make copies.
static FOUND: Value = Value::Bool(true);

/// Whether an offence was found before the measure was used up.
pub(super) fn is_real(carried: &Value) -> bool {
    *carried == FOUND
}

/// What is left of the measure of one walk through a payload.
#[derive(Debug)]
pub(super) struct Walk {
    steps: Cell<u64>,
    offences: Cell<u32>,
    cut: Cell<bool>,
}

impl Walk {
    pub(super) fn new(steps: u64, offences: u32) -> Walk {
        Walk { steps: Cell::new(steps), offences: Cell::new(offences), cut: Cell::new(false) }
    }

    /// Whether the measure was used up.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    fn step(&self) -> bool {
        match self.steps.get().checked_sub(1) {
            Some(rest) => self.steps.set(rest),
            None => self.cut.set(true),
        }
        !self.cut.get()
    }

    fn offence(&self) -> bool {
        match self.offences.get().checked_sub(1) {
            Some(rest) => self.offences.set(rest),
            None => self.cut.set(true),
        }
        !self.cut.get()
    }
}

/// The representation: values of `serde_json`, each with the walk that it is looked at in.
pub(super) struct Measured;

/// One value.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    value: &'a Value,
    /// None for the name of a property, in which there is nowhere to go.
    walk: Option<&'a Walk>,
}

impl<'a> Place<'a> {
    pub(super) fn new(value: &'a Value, walk: &'a Walk) -> Place<'a> {
        Place { value, walk: Some(walk) }
    }

    fn look(&self) -> &'a Value {
        if self.walk.is_none_or(Walk::step) { self.value } else { &NOTHING }
    }
}

impl Json for Measured {
    type Node<'a> = Place<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Place<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Place { value: buffer, walk: None })
    }
}

impl<'a> Node<'a, Measured> for Place<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        self.look().as_object().map(|map| Members { map, walk: self.walk })
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        self.look().as_array().map(|items| Elements { items, walk: self.walk })
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.look().as_str().map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.look().as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.look().as_bool()
    }

    fn is_null(&self) -> bool {
        self.look().is_null()
    }

    fn json_type(&self) -> JsonType {
        match self.look() {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        cmp::equal(self.look(), expected)
    }

    /// Asked for once for each offence, and for nothing else: comparisons do without.
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Borrowed(if self.walk.is_none_or(Walk::offence) { &FOUND } else { &NOTHING })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.value) as usize))
    }
}

/// The members of an object.
pub(super) struct Members<'a> {
    map: &'a Map<String, Value>,
    walk: Option<&'a Walk>,
}

impl<'a> Object<'a, Measured> for Members<'a> {
    type Node = Place<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.map.len()
    }

    fn get(&self, key: &String) -> Option<Place<'a>> {
        self.map.get(key).map(|value| Place { value, walk: self.walk })
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter { iter: self.map.iter(), walk: self.walk }
    }
}

/// Ends early where the measure is used up.
pub(super) struct MembersIter<'a> {
    iter: serde_json::map::Iter<'a>,
    walk: Option<&'a Walk>,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Place<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.iter.next().filter(|_| self.walk.is_none_or(Walk::step))?;
        Some((name, Place { value, walk: self.walk }))
    }
}

/// The elements of a list.
pub(super) struct Elements<'a> {
    items: &'a [Value],
    walk: Option<&'a Walk>,
}

impl<'a> Array<'a, Measured> for Elements<'a> {
    type Node = Place<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.items.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter { iter: self.items.iter(), walk: self.walk }
    }

    fn is_unique(&self) -> bool {
        unique::is_unique(self.items)
    }
}

/// Ends early where the measure is used up.
pub(super) struct ElementsIter<'a> {
    iter: std::slice::Iter<'a, Value>,
    walk: Option<&'a Walk>,
}

impl<'a> Iterator for ElementsIter<'a> {
    type Item = Place<'a>;

    fn next(&mut self) -> Option<Place<'a>> {
        let value = self.iter.next().filter(|_| self.walk.is_none_or(Walk::step))?;
        Some(Place { value, walk: self.walk })
    }
}

//! What followed from one order, as a tree: each fact below the one that it followed from.

use std::collections::BTreeMap;

use ratatui::text::{Line, Span};

use super::ledger::Fact;
use crate::view::Theme;

/// The languages of the handlers.
const LANGUAGES: [(&str, &str); 6] = [
    ("fraud-check", "Python"),
    ("payment", "Rust"),
    ("inventory", "Go"),
    ("notification", "TypeScript"),
    ("analytics", "JavaScript"),
    ("audit", "C"),
];

/// The lines of the tree of all facts with one correlation id, and of what `analytics` keeps of them.
pub(super) fn lines(facts: &[Fact], order: &str, entries: &BTreeMap<String, u64>, theme: Theme) -> Vec<Line<'static>> {
    let mut of_order: Vec<&Fact> = facts.iter().filter(|fact| fact.correlation == order).collect();
    of_order.sort_by_key(|fact| fact.sequence);
    let audits = of_order.iter().filter(|fact| fact.subject == "audit.recorded").count();
    of_order.retain(|fact| fact.subject != "audit.recorded");
    let mut lines = Vec::new();
    for root in of_order.iter().filter(|fact| fact.cause.is_none()) {
        branch(root, &of_order, "", "", theme, &mut lines);
    }
    let prefix = format!("orders.{order}.");
    for (key, value) in entries.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        lines.push(row(&format!("{key} = {value}"), "analytics", theme));
    }
    lines.push(row(&format!("audit.recorded, {audits} times"), "audit", theme));
    lines
}

fn branch(fact: &Fact, all: &[&Fact], lead: &str, below: &str, theme: Theme, lines: &mut Vec<Line<'static>>) {
    lines.push(row(&format!("{lead}{}", fact.subject), fact.handler.as_deref().unwrap_or_default(), theme));
    let children: Vec<_> = all.iter().filter(|other| other.cause.as_deref() == Some(&*fact.id)).collect();
    for (place, child) in children.iter().enumerate() {
        let (lead, next) = if place + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(child, all, &format!("{below}{lead}"), &format!("{below}{next}"), theme, lines);
    }
}

fn row(text: &str, handler: &str, theme: Theme) -> Line<'static> {
    let language = LANGUAGES.iter().find(|(name, _)| *name == handler).map_or("", |(_, language)| language);
    Line::from(vec![
        Span::raw(format!("  {text:<46}")),
        Span::styled(format!("{handler:<14}"), theme.accent()),
        Span::styled(language, theme.faint()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(sequence: u64, subject: &str, id: &str, cause: Option<&str>, handler: &str) -> Fact {
        Fact {
            sequence,
            subject: subject.into(),
            id: id.into(),
            correlation: "o-1".into(),
            cause: cause.map(str::to_owned),
            handler: (!handler.is_empty()).then(|| handler.to_owned()),
        }
    }

    #[test]
    fn each_fact_is_below_the_one_it_followed_from() {
        let facts = [
            fact(4, "stock.reserved", "s", Some("a"), "inventory"),
            fact(1, "order.placed", "o-1", None, ""),
            fact(2, "order.accepted", "a", Some("o-1"), "fraud-check"),
            fact(3, "payment.captured", "p", Some("a"), "payment"),
            fact(5, "notification.sent", "n", Some("p"), "notification"),
            fact(6, "audit.recorded", "x", Some("p"), "audit"),
            Fact { correlation: "o-2".into(), ..fact(7, "order.placed", "o-2", None, "") },
        ];
        let entries = [("orders.o-1.payment_captured".to_owned(), 7), ("orders.o-2.payment_failed".to_owned(), 7)];
        let shown = lines(&facts, "o-1", &entries.into(), Theme::Plain);
        let shown: Vec<_> = shown.iter().map(|line| line.to_string().trim_end().to_owned()).collect();
        let expected = [
            "  order.placed",
            "  └─ order.accepted                             fraud-check   Python",
            "     ├─ payment.captured                        payment       Rust",
            "     │  └─ notification.sent                    notification  TypeScript",
            "     └─ stock.reserved                          inventory     Go",
            "  orders.o-1.payment_captured = 7               analytics     JavaScript",
            "  audit.recorded, 1 times                       audit         C",
        ];
        assert_eq!(shown, expected);
    }
}

//! The SQL of docs/scaling.md that needs no other software runs as written, but for its dates, which pass.

use harness::fleet::stats_at;
use harness::{installed, value};

/// The SQL blocks of the section with this title, in lists too.
fn blocks(title: &str) -> Vec<String> {
    let page = std::fs::read_to_string(format!("{}/docs/scaling.md", harness::CHECKOUT)).unwrap();
    let section =
        page.split("\n## ").find(|section| section.starts_with(title)).expect("the section is there");
    let (mut blocks, mut inside) = (Vec::new(), false);
    for line in section.lines() {
        match line.trim() {
            "```sql" => {
                inside = true;
                blocks.push(String::new());
            }
            "```" => inside = false,
            text if inside => *blocks.last_mut().unwrap() += &format!("{text}\n"),
            _ => {}
        }
    }
    blocks
}

#[test]
fn partitions_by_day() {
    let [create, drop, move_rows]: [String; 3] = blocks("Partitions by day").try_into().unwrap();
    let (_, mut client) = installed("scaling");
    client.batch_execute(&create).unwrap();

    let mut day = |days: i32, pattern: &str| -> String {
        value(
            &mut client,
            &format!("select to_char(now() at time zone 'UTC' + {days} * interval '1 d', '{pattern}')"),
        )
    };
    let drop = drop.replace("20261101", &day(-1, "YYYYMMDD"));
    let move_rows = move_rows
        .replace("2026-12-05", &day(30, "YYYY-MM-DD"))
        .replace("2026-12-06", &day(31, "YYYY-MM-DD"))
        .replace("20261205", &day(30, "YYYYMMDD"));
    let made = format!("public.entries_{}", day(30, "YYYYMMDD"));

    client
        .batch_execute(
            "insert into public.entries (created_at, host)
             select now() + n * interval '1 d', 'h' from unnest('{-1, 0, 30, 40}'::int[]) n",
        )
        .unwrap();
    client.batch_execute(&drop).unwrap();
    client.batch_execute(&move_rows).unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 3);
    assert_eq!(value::<i64>(&mut client, &format!("select count(*) from {made}")), 1);
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.entries_default"), 1);
}

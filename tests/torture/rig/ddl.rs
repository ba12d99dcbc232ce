//! What changes the table itself, or takes the triggers' sight: each while nobody else writes, as PostgreSQL's own locks
//! would have it, and with old snapshots held by others.

use super::schema::{Entries, in_other_method};
use super::writes::Owned;
use super::{Finding, Rig, chunk_ddl, tree_ddl};

/// Statements that each take effect at once, `;;` between them; `{write}` stands for a writer's statement, and after each
/// the readers compare where they can. `{seal}` is a step of a sealer.
const SCRIPTS: [&str; 19] = [
    "begin; {write}; truncate public.entries; {write}; rollback",
    "begin; savepoint a; truncate public.entries; rollback to a; {write}; commit",
    "alter table public.entries alter host type varchar(5000) using left(host, 5);; {write};; {seal};;
     alter table public.entries alter host type text;; {write}",
    "begin; alter table public.entries alter host type varchar(5000) using left(host, 1); {write};
     alter table public.entries alter host type text; commit",
    "alter table public.entries alter status type bigint;; {write};;
     alter table public.entries alter status type int",
    "begin; alter table public.entries rename host to host_; alter table public.entries rename method to host;
     alter table public.entries rename host_ to method; commit;; {write};; {write};;
     begin; alter table public.entries rename host to host_; alter table public.entries rename method to host;
     alter table public.entries rename host_ to method; commit",
    "begin; alter table public.entries drop column source; alter table public.entries add column source text; {write}; commit",
    "alter table public.entries disable trigger busymate_stats_capture;; {write};; {seal};; {write};;
     alter table public.entries enable always trigger busymate_stats_capture;; {write}",
    "begin; alter table public.entries disable trigger user; {write}; {write};
     alter table public.entries enable trigger user;
     alter table public.entries enable always trigger busymate_stats_capture; commit",
    "reindex table public.entries;; {write}",
    "begin; truncate public.entries; {write}; {write}; truncate public.entries; {write}; commit",
    "drop trigger busymate_stats_capture on public.entries;; {write};; {write};;
     create trigger busymate_stats_capture after insert or update or delete on public.entries
         for each row execute function busymate_stats_internal.capture_change('created_at');
     alter table public.entries enable always trigger busymate_stats_capture;
     alter trigger busymate_stats_capture on public.entries depends on extension busymate_stats",
    "create table test.copied (like public.entries including all);
     create trigger busymate_stats_capture after insert or update or delete on test.copied
         for each row execute function busymate_stats_internal.capture_change('created_at');
     insert into test.copied (owner, created_at) select 0, now() - n * interval '1 hour' from generate_series(1, 9) n;; {write};; {seal};;
     drop table test.copied",
    "select busymate_stats.detach(); {write}; {write};
     select busymate_stats.attach('public.entries', 'public.devices');; {seal};; {write}",
    "vacuum full public.entries",
    "cluster public.entries using entries_created_at_idx;; {write}",
    "alter table public.entries add column more int default random();; {write};;
     alter table public.entries drop column more",
    "alter table public.entries set unlogged;; {write};; {seal};; alter table public.entries set logged",
    "create table test.child () inherits (public.entries);;
     insert into test.child (id, owner, created_at) select -n, 0, now() - n * interval '1 hour' from generate_series(1, 9) n;;
     {write};; {seal};; update public.entries set host = 'child' where owner = 0;; delete from public.entries where id = -3;;
     drop table test.child",
];

impl Rig<'_> {
    pub fn ddl(&mut self) -> Result<(), Finding> {
        self.quiesce()?;
        let wanted = self.plan.scripts;
        let all: &[&str] = match self.plan.entries {
            Entries::Table => &SCRIPTS,
            Entries::Tree | Entries::Mixed => &tree_ddl::SCRIPTS,
            Entries::Chunks => &chunk_ddl::SCRIPTS,
        };
        // What is published cannot be unlogged.
        let is_possible = |script: &&str| {
            (!self.plan.decode || !script.contains("unlogged"))
                // There the parent has no trigger.
                && (self.plan.entries != Entries::Mixed || !tree_ddl::names_trigger_of_parent(script))
        };
        let scripts: Vec<&str> =
            all.iter().copied().filter(|script| script.contains(wanted)).filter(is_possible).collect();
        if scripts.is_empty() {
            return Ok(());
        }
        let script = self.chance.pick(&scripts);
        // What locks out writers alone may come while a sealer is in the middle of a step.
        if !script.contains("disable trigger") || self.chance.once_in(2) {
            self.end_steps();
        }
        self.drain()?;
        // What has deferred triggers to fire cannot be altered or truncated.
        self.run_in(0, "set test.deferred = 'off'")?;
        for part in script.split(";;") {
            let part = part.trim();
            if part == "{seal}" {
                self.seal();
                self.end_steps();
                continue;
            }
            let statement = self.filled_in(part);
            self.run_in(0, &statement)?;
            self.compare()?;
        }
        self.run_in(0, "reset test.deferred")?;
        self.drain_after(script)?;
        if self.chance.once_in(2) {
            self.catch_up();
        }
        Ok(())
    }

    fn filled_in(&mut self, part: &str) -> String {
        let mut statement = part.to_owned();
        if self.plan.entries == Entries::Mixed && self.chance.once_in(2) {
            statement = in_other_method(&statement, "test.day(3)) to (test.day(2))");
        }
        while statement.contains("{old}") {
            let old: &[&str] = match self.plan.entries {
                Entries::Chunks => &chunk_ddl::OLD,
                _ => &tree_ddl::OLD,
            };
            statement = statement.replacen("{old}", self.chance.pick(old), 1);
        }
        while statement.contains("{leaf}") {
            let host = self.chance.below(40);
            let write = format!("update test.day1 set host = 'h{host}' where id % 3 = 0");
            statement = statement.replacen("{leaf}", &write, 1);
        }
        while statement.contains("{write}") {
            let owner = self.chance.pick(&self.writers[0].owners);
            let mut owned = Owned { chance: &mut self.chance, known: self.known, owner };
            let write = owned.statement();
            statement = statement.replacen("{write}", &write, 1);
        }
        statement
    }
}

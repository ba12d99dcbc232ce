-- The roster: how many devices there are, by connection type and by when they were last seen, and what has changed since
-- they were counted. Rows are appended and later removed, never updated. None of this is dumped: a restored database
-- counts anew.

create table busymate_stats_internal.roster_capture (
    gen bigint primary key,
    threshold timestamptz not null,
    due timestamptz not null,
    resting boolean not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats_internal.roster_capture is
    'The devices'' threshold: a sign of life that moves from one later moment to another changes nothing. The newest row counts.';
comment on column busymate_stats_internal.roster_capture.gen is 'Generation: one more at each move.';
comment on column busymate_stats_internal.roster_capture.threshold is 'Last signs of life until this moment are told apart; -infinity while nobody counts.';
comment on column busymate_stats_internal.roster_capture.due is 'When it is to move again.';
comment on column busymate_stats_internal.roster_capture.resting is 'Nothing is to be counted before that: the last count failed.';
insert into busymate_stats_internal.roster_capture values (0, '-infinity', '-infinity', false);

create table busymate_stats_internal.roster_look (
    gen bigint primary key,
    writers xid8[] not null,
    fingerprint text not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats_internal.roster_look is
    'Who was writing devices when a threshold had just become known: they may have missed it, so the count waits for them.';
comment on column busymate_stats_internal.roster_look.gen is 'The threshold''s generation.';
comment on column busymate_stats_internal.roster_look.writers is 'Their transactions.';
comment on column busymate_stats_internal.roster_look.fingerprint is 'What the relation was like then.';

create table busymate_stats_internal.roster_changes (
    gen bigint not null,
    old_type text,
    old_seen timestamptz,
    new_type text,
    new_seen timestamptz
) using heap with (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.1, vacuum_truncate = false);
create index roster_changes_gen on busymate_stats_internal.roster_changes (gen);
alter table busymate_stats_internal.roster_changes replica identity nothing;
comment on table busymate_stats_internal.roster_changes is
    'Devices that came, went, changed their connection type, or crossed the threshold.';
comment on column busymate_stats_internal.roster_changes.gen is 'The threshold''s generation that the writer read.';
comment on column busymate_stats_internal.roster_changes.old_type is 'The connection type as it was, unknown for none; null for a device that came.';
comment on column busymate_stats_internal.roster_changes.old_seen is 'When the device was last seen, as it was; -infinity for never and for offline, infinity for online.';
comment on column busymate_stats_internal.roster_changes.new_type is 'The connection type as it is; null for a device that went.';
comment on column busymate_stats_internal.roster_changes.new_seen is 'When the device was last seen, as it is.';

create table busymate_stats_internal.roster_state (
    version bigint primary key,
    gen bigint not null,
    fingerprint text not null,
    since timestamptz not null,
    until timestamptz not null,
    total bigint not null,
    types bytea not null,
    took bigint not null,
    counted_at timestamptz not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
alter table busymate_stats_internal.roster_state alter column types set storage external;
comment on table busymate_stats_internal.roster_state is 'Every device, counted. The newest row counts.';
comment on column busymate_stats_internal.roster_state.version is 'Counts up.';
comment on column busymate_stats_internal.roster_state.gen is 'The generation of the threshold whose writers were waited for.';
comment on column busymate_stats_internal.roster_state.fingerprint is 'What the relation was like: its file, its trigger and its columns.';
comment on column busymate_stats_internal.roster_state.since is 'Last signs of life are told apart from this moment on,';
comment on column busymate_stats_internal.roster_state.until is 'up to this one.';
comment on column busymate_stats_internal.roster_state.total is 'Devices.';
comment on column busymate_stats_internal.roster_state.types is 'Devices by connection type.';
comment on column busymate_stats_internal.roster_state.took is 'How long counting took, in microseconds.';
comment on column busymate_stats_internal.roster_state.counted_at is 'When the row was written.';

create table busymate_stats_internal.roster_moments (
    version bigint not null,
    first timestamptz not null,
    silent bigint not null,
    moments bytea not null,
    primary key (version, first)
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
alter table busymate_stats_internal.roster_moments alter column moments set storage external;
comment on table busymate_stats_internal.roster_moments is 'How many devices were last seen when, in portions.';
comment on column busymate_stats_internal.roster_moments.version is 'The version of the state that it belongs to.';
comment on column busymate_stats_internal.roster_moments.first is 'The portion''s first moment.';
comment on column busymate_stats_internal.roster_moments.silent is 'Devices that were last seen before.';
comment on column busymate_stats_internal.roster_moments.moments is 'Moments, and how many devices were last seen then.';

create function busymate_stats_internal.roster_change() returns trigger
    language c as 'MODULE_PATHNAME', 'roster_change_wrapper';
comment on function busymate_stats_internal.roster_change() is
    'Trigger: writes down what changes the number of devices, their connection types, or who is silent.';

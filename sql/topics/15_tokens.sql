-- Tokens that are refused before they expire.

create table busymate_stats.revoked_tokens (
    jti text collate "C" primary key,
    revoked_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz
);
create index revoked_tokens_expires_at_idx on busymate_stats.revoked_tokens (expires_at);
comment on table busymate_stats.revoked_tokens is
    'Access tokens that hold no capability any more. Read with tokens:view, written with tokens:edit.';
comment on column busymate_stats.revoked_tokens.jti is 'The token: its "jti" claim.';
comment on column busymate_stats.revoked_tokens.revoked_at is 'When it was revoked.';
comment on column busymate_stats.revoked_tokens.expires_at is
    'When no gateway accepts it any more, so that the row can go; null keeps the row.';

select pg_catalog.pg_extension_config_dump('busymate_stats.revoked_tokens', '');

alter table busymate_stats.revoked_tokens enable row level security;
create policy revoked_tokens_view on busymate_stats.revoked_tokens for select
    using ((select public.has_capability('tokens', 'view')));
create policy revoked_tokens_insert on busymate_stats.revoked_tokens for insert
    with check ((select public.has_capability('tokens', 'edit')));
create policy revoked_tokens_update on busymate_stats.revoked_tokens for update
    using ((select public.has_capability('tokens', 'edit')));
create policy revoked_tokens_delete on busymate_stats.revoked_tokens for delete
    using ((select public.has_capability('tokens', 'edit')));
comment on policy revoked_tokens_view on busymate_stats.revoked_tokens is 'Who holds tokens:view sees which tokens are revoked.';
comment on policy revoked_tokens_insert on busymate_stats.revoked_tokens is 'Who holds tokens:edit revokes tokens.';
comment on policy revoked_tokens_update on busymate_stats.revoked_tokens is 'Who holds tokens:edit changes what is revoked.';
comment on policy revoked_tokens_delete on busymate_stats.revoked_tokens is 'Who holds tokens:edit takes a revocation back.';

create trigger changed after insert or update or delete on busymate_stats.revoked_tokens
    for each row execute function busymate_stats_internal.grants_changed();
create trigger changed_by_truncate after truncate on busymate_stats.revoked_tokens
    for each statement execute function busymate_stats_internal.grants_changed();
alter table busymate_stats.revoked_tokens enable always trigger changed;
alter table busymate_stats.revoked_tokens enable always trigger changed_by_truncate;

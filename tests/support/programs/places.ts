// SPDX-License-Identifier: Apache-2.0
// Looks for files that are not there, and says of each the stack as Node.js tells it, which is asked for on the same line.
import { statSync } from "node:fs";

interface Place {
  readonly path: string;
}

enum Kind {
  Thread,
  Tick,
}

function tell(path: string, _found: unknown, stack: string | undefined): void {
  console.log(JSON.stringify([path, stack]));
}

class Keeper<T extends Place> {
  constructor(
    private readonly kind: Kind,
    private readonly place: T,
  ) {}

  look(): void {
    type Options = { throwIfNoEntry: boolean };
    const options: Options = { throwIfNoEntry: false };
    tell(this.place.path, statSync(this.place.path, options), new Error(Kind[this.kind]).stack);
  }
}

const keepers = (path: string): Keeper<Place>[] =>
  [Kind.Thread, Kind.Tick].map(
    (kind: Kind): Keeper<Place> =>
      new Keeper(kind, { path: `${path}/${kind}` }),
  );

async function handle(number: number): Promise<void> {
  for (const keeper of keepers(`/kernelspan-places/${number}/before`)) {
    keeper.look();
  }
  await new Promise<void>((resolve: () => void) => setTimeout(resolve, 2));
  keepers(`/kernelspan-places/${number}/after`).forEach((keeper: Keeper<Place>): void => {
    keeper.look();
  });
}

(async (): Promise<void> => {
  for (let number = 0; number < 60; number++) {
    await handle(number);
  }
})();

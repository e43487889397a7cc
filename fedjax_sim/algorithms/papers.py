"""The papers behind the algorithms: titles, arXiv numbers, BibTeX."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
      key: its BibTeX key.
      title: as printed.
      authors: in BibTeX's form, joined by `and`.
      venue: where it appeared.
      year: of that.
      arxiv: the arXiv number.
    """

    key: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors,
            "booktitle": self.venue,
            "year": str(self.year),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv",
        }
        body = ",\n".join(f"  {name:<13} = {{{value}}}" for name, value in fields.items())
        return f"@inproceedings{{{self.key},\n{body}\n}}"


FEDAVG = Paper(
    "mcmahan2017communication",
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
    'Ag{\\"u}era y Arcas, Blaise',
    "Artificial Intelligence and Statistics (AISTATS)",
    2017,
    "1602.05629",
)
FEDAVGM = Paper(
    "hsu2019measuring",
    "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
    "NeurIPS Workshop on Federated Learning",
    2019,
    "1909.06335",
)
FEDOPT = Paper(
    "reddi2021adaptive",
    "Adaptive Federated Optimization",
    "Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and "
    "Rush, Keith and Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2003.00295",
)
FEDPROX = Paper(
    "li2020federated",
    "Federated Optimization in Heterogeneous Networks",
    "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and "
    "Talwalkar, Ameet and Smith, Virginia",
    "Machine Learning and Systems (MLSys)",
    2020,
    "1812.06127",
)
FEDNOVA = Paper(
    "wang2020tackling",
    "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. Vincent",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2007.07481",
)
SCAFFOLD = Paper(
    "karimireddy2020scaffold",
    "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    "Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank and "
    "Stich, Sebastian and Suresh, Ananda Theertha",
    "International Conference on Machine Learning (ICML)",
    2020,
    "1910.06378",
)
MEDIAN = Paper(
    "yin2018byzantine",
    "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    "Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
    "International Conference on Machine Learning (ICML)",
    2018,
    "1803.01498",
)
PERTURBED = Paper(
    "jin2017escape",
    "How to Escape Saddle Points Efficiently",
    "Jin, Chi and Ge, Rong and Netrapalli, Praneeth and Kakade, Sham M. and Jordan, Michael I.",
    "International Conference on Machine Learning (ICML)",
    2017,
    "1703.00887",
)
NEGATIVE_CURVATURE = Paper(
    "carmon2018accelerated",
    "Accelerated Methods for Nonconvex Optimization",
    "Carmon, Yair and Duchi, John C. and Hinder, Oliver and Sidford, Aaron",
    "SIAM Journal on Optimization",
    2018,
    "1611.00756",
)
